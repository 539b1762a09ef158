// Gradients of a step, over its micro-batches and the processes that share them. Definitions of BasicTrainer, for the files
// that instantiate it.
//
// A process starts the sum of a gradient over the processes within the backward pass that completes it, its last one of the
// step (with adds_in_order: each one), in the order of `parts_`, which is everyone's. It waits for the sums before the step.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "training/process_agreement.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Calls a function for each MLP matrix as soon as its gradient is there, until the end of a scope.
template <class Model>
class MlpGradientScope {
 public:
  MlpGradientScope(Model& model, std::function<void(index_t)> callback) : model_(model) {
    model.on_mlp_gradient(std::move(callback));
  }
  ~MlpGradientScope() { model_.on_mlp_gradient({}); }
  MlpGradientScope(const MlpGradientScope&) = delete;
  MlpGradientScope& operator=(const MlpGradientScope&) = delete;

 private:
  Model& model_;
};

/// The same for the dense parameters of each layer.
template <class Model>
class LayerGradientScope {
 public:
  LayerGradientScope(Model& model, std::function<void(index_t)> callback) : model_(model) {
    model.on_layer_gradients(std::move(callback));
  }
  ~LayerGradientScope() { model_.on_layer_gradients({}); }
  LayerGradientScope(const LayerGradientScope&) = delete;
  LayerGradientScope& operator=(const LayerGradientScope&) = delete;

 private:
  Model& model_;
};

}  // namespace detail

template <class Model>
typename BasicTrainer<Model>::StepLoss BasicTrainer<Model>::accumulate() {
  const std::span<const index_t> all = sampler_.take(examples_a_step());
  const auto rows_of = [&](index_t i) { return data_.rows(i); };
  const std::vector<std::size_t> counts = micro_batches(options_, all, rows_of);
  const auto weight_of = [&](std::span<const index_t> examples) {
    double sum = 0;
    for (const index_t i : examples)
      sum += static_cast<double>(data_.weight(i));
    return sum;
  };
  const double total = weight_of(all);
  const auto ranks = static_cast<std::size_t>(options_.processes);
  const std::size_t rank = processes_ == nullptr ? 0 : static_cast<std::size_t>(processes_->rank());
  const bool in_order = options_.adds_in_order();
  for (GradientPart& part : parts_)
    part.before.clear();
  std::vector<double> losses(counts.size());
  std::size_t first = 0;
  for (std::size_t k = 0; k < counts.size(); ++k) {
    const auto examples = all.subspan(first, counts[k]);
    first += examples.size();
    // The model's loss is a mean over its own batch: weighted, the step's is one over all examples.
    const double share = weight_of(examples) / total;
    const bool sends = processes_ != nullptr && (in_order || k + ranks >= counts.size());
    if (k % ranks == rank) losses[k] = share * add_micro_batch(examples, pass_ + k, share, sends);
    const bool last = k + 1 == counts.size();
    if (in_order && !last && k % ranks == ranks - 1) put_aside();
  }
  pass_ += counts.size();
  if (processes_ != nullptr) {
    start_other_sums();
    exchange(losses);
    sums_->finish();
  }
  for (const GradientPart& part : parts_)
    if (in_order && processes_ == nullptr) add_before(part, gradient_of(part));
  StepLoss sum;
  for (const double loss : losses)
    sum.loss += loss;
  for (const index_t i : all)
    sum.tokens += data_.rows(i);
  sum.examples = static_cast<index_t>(all.size());
  return sum;
}

template <class Model>
double BasicTrainer<Model>::add_micro_batch(std::span<const index_t> examples, std::uint64_t number,
                                            double share, bool sends) {
  batch_.clear();
  for (const index_t i : examples)
    data_.add_to(batch_, i);
  const auto forward = model_.forward(ctx_, batch_, {.training = true, .dropout_key = dropout_key(number)});
  check_last_step(false);  // the loss has waited for it
  // Among several processes `exchange` tells all of them.
  if (processes_ == nullptr && !sparsegrad::is_finite(forward.loss)) {
    throw NonFiniteError(fmt::format(
        "the loss is {}, expected a finite number; the learning rate may be too large", forward.loss));
  }
  const auto backward = [&] { model_.backward(ctx_, batch_, share * loss_scale_.scale); };
  if (!sends) {
    backward();
    return forward.loss;
  }
  const detail::LayerGradientScope<Model> layers(model_, [this](index_t layer) { complete(layer, -1); });
  if (matrices_apart_) {
    backward();
  } else {
    const detail::MlpGradientScope<Model> matrices(
        model_, [this](index_t matrix) { complete(layer_of(model_.mlp_name(matrix)), matrix); });
    backward();
  }
  return forward.loss;
}

template <class Model>
auto BasicTrainer<Model>::gradient_parts() -> std::vector<GradientPart> {
  std::vector<GradientPart> parts;
  for (index_t number = 0; number < static_cast<index_t>(model_.mlp().size()); ++number)
    parts.push_back({.layer = layer_of(model_.mlp_name(number)), .matrix = number});
  for (const Parameter<T>& p : model_.parameters().all()) {
    if (p.gradient.empty()) continue;
    const index_t layer = layer_of(p.name);
    const bool goes_on = !parts.empty() && parts.back().matrix < 0 && parts.back().layer == layer;
    if (!goes_on) parts.push_back({.layer = layer, .dense = MatrixView<float>(p.gradient.data, 1, 0)});
    MatrixView<float>& dense = parts.back().dense;  // one lies behind the other
    dense = MatrixView<float>(dense.data, 1, p.gradient.data + p.gradient.size() - dense.data);
  }
  std::stable_sort(parts.begin(), parts.end(), [](const GradientPart& a, const GradientPart& b) {
    return a.layer != b.layer ? a.layer > b.layer : a.matrix > b.matrix;
  });
  return parts;
}

template <class Model>
MatrixView<float> BasicTrainer<Model>::gradient_of(const GradientPart& part) {
  if (part.matrix < 0) return part.dense;
  if (matrices_apart_) return {};
  auto& layer = model_.mlp()[static_cast<std::size_t>(part.matrix)];
  return mlp_->collecting() ? layer.gradient().weight_gradient(ctx_) : layer.core(ctx_);
}

template <class Model>
void BasicTrainer<Model>::complete(index_t layer, index_t matrix) {
  for (GradientPart& part : parts_) {
    const bool no_part = matrices_apart_ && part.matrix >= 0;
    part.complete = part.complete || no_part || (part.layer == layer && part.matrix == matrix);
  }
  while (next_part_ < parts_.size() && parts_[next_part_].complete)
    start_sum(parts_[next_part_++]);
}

template <class Model>
void BasicTrainer<Model>::start_other_sums() {
  while (next_part_ < parts_.size())
    start_sum(parts_[next_part_++]);
  sums_->flush();
  for (GradientPart& part : parts_)
    part.complete = false;
  next_part_ = 0;
}

template <class Model>
void BasicTrainer<Model>::start_sum(const GradientPart& part) {
  if constexpr (!ThrustBackend<Backend>) {
    const MatrixView<float> gradient = gradient_of(part);
    if (gradient.empty()) return;
    finite_ = finite_ && Backend::template first_nonfinite<float>(ctx_, gradient) < 0;
    // ((sum + g0) + g1) + ...: the sum so far goes in with rank 0's part.
    if (options_.adds_in_order() && processes_->rank() == 0) add_before(part, gradient);
    sums_->start({gradient.data, static_cast<std::size_t>(gradient.size())});
  } else {
    (void)part;
  }
}

template <class Model>
void BasicTrainer<Model>::add_before(const GradientPart& part, MatrixView<float> gradient) const {
  if constexpr (!ThrustBackend<Backend>) {
    const auto count = static_cast<std::size_t>(gradient.size());
    // Adding 0 makes a 0 of each -0, as any sum does.
    for (std::size_t i = 0; i < count; ++i)
      gradient.data[i] = (part.before.empty() ? 0.0F : part.before[i]) + gradient.data[i];
  } else {
    (void)part;
    (void)gradient;
  }
}

template <class Model>
void BasicTrainer<Model>::put_aside() {
  if constexpr (!ThrustBackend<Backend>) {
    if (processes_ != nullptr) {
      start_other_sums();
      sums_->finish();
    }
    for (GradientPart& part : parts_) {
      const MatrixView<float> gradient = gradient_of(part);
      if (processes_ == nullptr) add_before(part, gradient);
      if (processes_ != nullptr && processes_->rank() != 0) continue;
      if (part.before.capacity() < static_cast<std::size_t>(gradient.size())) part.before = {};
      part.before.assign(gradient.data, gradient.data + gradient.size());
    }
    model_.parameters().zero_gradients(ctx_);
    for (auto& layer : model_.mlp())
      layer.clear();
  }
}

template <class Model>
void BasicTrainer<Model>::exchange(std::vector<double>& losses) {
  if constexpr (!ThrustBackend<Backend>) {
    const auto ranks = static_cast<std::size_t>(processes_->size());
    const auto rank = static_cast<std::size_t>(processes_->rank());
    // One sum for all that is small: losses, who holds NaN or Inf, whether any process was interrupted.
    std::vector<double> small(losses);
    small.resize(losses.size() + ranks + 1);
    small[losses.size() + rank] = std::exchange(finite_, true) ? 0 : 1;
    small.back() = interrupted_ && interrupted_() ? 1 : 0;
    processes_->sum(std::span(small), SumOrder::any, "the losses of a step");
    all_stop_ = all_stop_ || small.back() > 0;
    std::copy_n(small.begin(), losses.size(), losses.begin());
    for (std::size_t k = 0; k < losses.size(); ++k) {
      if (sparsegrad::is_finite(losses[k])) continue;
      throw NonFiniteError(fmt::format(
          "the loss of rank {} is {}, expected a finite number; the learning rate may be too large",
          k % ranks, losses[k]));
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      if (small[losses.size() + r] == 0) continue;
      throw NonFiniteError(
          fmt::format("the gradients of rank {} hold NaN or Inf, expected finite numbers; the learning rate "
                      "may be too large",
                      r));
    }
  } else {
    (void)losses;
  }
}

template <class Model>
bool BasicTrainer<Model>::asked_to_stop(const TrainHooks& hooks) const {
  if (processes_ != nullptr) return all_stop_;
  return hooks.interrupted && hooks.interrupted();
}

template <class Model>
void BasicTrainer<Model>::require_same_state() {
  if (processes_ == nullptr) return;
  require_same_on_all(*processes_, "the options and data", fingerprint(),
                      "start all with the same options, on the same files");
  require_same_on_all(
      *processes_, "the state",
      nlohmann::json{
          {"state", {{"step", report_.steps_done}, {"hash", fmt::format("{:016x}", checkpoint_hash())}}}},
      "they need the same model's files, the same program and threads, and processors of one kind");
}

}  // namespace sparsegrad::finetune
