// Definitions of AdamW, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "models/layers/layer_ops.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
AdamW<T, Backend>::AdamW(Context& ctx, std::vector<Segment> segments, AdamWOptions options)
    : segments_(std::move(segments)), options_(options) {
  constexpr index_t chunk = LayerOps<Backend>::adamw_chunk;
  index_t state = 0;
  for (const Segment& segment : segments_)
    state += segment.count;
  first_.resize(ctx, state);
  second_.resize(ctx, state);
  state = 0;
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    for (index_t begin = 0; begin < segments_[s].count;
         begin += std::min(chunk, segments_[s].count - begin)) {
      const index_t count = std::min(chunk, segments_[s].count - begin);
      T* const rounded = segments_[s].rounded;
      pieces_.push_back({{},
                         count,
                         segments_[s].weight + begin,
                         nullptr,
                         first_.data() + state,
                         second_.data() + state,
                         rounded == nullptr ? nullptr : rounded + begin,
                         nullptr});
      places_.push_back({s, begin});
      state += count;
    }
  }
  sums_.resize(pieces_.size());
  if constexpr (requires { LayerOps<Backend>::adamw_block; }) {
    constexpr index_t block = LayerOps<Backend>::adamw_block;
    const auto blocks = [](const AdamWPiece<T>& p) {
      return static_cast<std::size_t>((p.count + block - 1) / block);
    };
    std::size_t all = 0;
    for (const AdamWPiece<T>& piece : pieces_)
      all += blocks(piece);
    states_.assign(all, MomentsState::unknown);
    MomentsState* next = states_.data();
    for (AdamWPiece<T>& piece : pieces_) {
      piece.states = next;
      next += blocks(piece);
    }
  }
}

template <class T, class Backend>
void AdamW<T, Backend>::reset(Context& ctx) {
  first_.resize(ctx, first_.size());
  second_.resize(ctx, second_.size());
  steps_ = 0;
  forget_states();
}

template <class T, class Backend>
void AdamW<T, Backend>::find_gradients() const {
  for (std::size_t i = 0; i < pieces_.size(); ++i)
    pieces_[i].gradient = segments_[places_[i].segment].gradient + places_[i].begin;
}

template <class T, class Backend>
void AdamW<T, Backend>::step(Context& ctx, const Step& step) {
  ++steps_;
  const double t = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  find_gradients();
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Segment& segment = segments_[places_[i].segment];
    pieces_[i].coefficients = {static_cast<C>(1 - step.learning_rate * segment.weight_decay),
                               static_cast<C>(options_.beta1),
                               static_cast<C>(1 - options_.beta1),
                               static_cast<C>(options_.beta2),
                               static_cast<C>(1 - options_.beta2),
                               static_cast<C>(step.grad_scale),
                               static_cast<C>(step.learning_rate / correction1),
                               static_cast<C>(1 / std::sqrt(correction2)),
                               static_cast<C>(options_.eps)};
  }
  LayerOps<Backend>::template adamw<T>(ctx, pieces_, step.clear_gradients);
}

template <class T, class Backend>
double AdamW<T, Backend>::gradient_norm(Context& ctx) const {
  find_gradients();
  LayerOps<Backend>::template sums_of_squares<T>(ctx, pieces_, sums_.data());
  double sum = 0;
  for (const double part : sums_)
    sum += part;
  return std::sqrt(sum);
}

}  // namespace sparsegrad::finetune
