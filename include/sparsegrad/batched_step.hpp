// BatchedStep: selection and step of many layers, each kind of work once for all of them.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "sparse_adam.hpp"
#include "sparse_grad_linear.hpp"

namespace sparsegrad {

/// Layers whose cores are finished, with the sparse gradients and optimizers of theirs (all borrowed), for a
/// BatchedBackend. On a GPU a layer's top-k, moments and update are too small to fill it, and a launch costs more than
/// they do: here top-k is one sequence of launches for all layers, Adam one, and so is the way back of all one-sided
/// bases of one shape. Products of two-sided bases follow one another, since each of them fills a GPU.
template <class T, Backend B>
class BatchedStep {
 public:
  using C = compute_t<T>;
  using Context = typename B::Context;
  using Layer = SparseGradLinear<T, B>;
  using Gradient = SparseGradient<C, B>;
  using Adam = SparseAdam<C, B>;

  /// Whether `update` can take this layer's step: W itself is updated through a basis, and the state is dense.
  static bool fits(const Layer& layer, const Gradient& s, const Adam& adam) {
    const LinearOptions& options = layer.options();
    return options.mode == UpdateMode::weight && !options.track_delta && !layer.has_fixed_support() &&
           (layer.basis()->out().rotates() || layer.basis()->in().rotates()) && adam.steps_in_place(s);
  }

  void clear() { parts_.clear(); }
  bool empty() const { return parts_.empty(); }
  void add(Layer& layer, Gradient& s, Adam& adam, std::int64_t* counter = nullptr) {
    parts_.push_back({&layer, &s, &adam, counter});
  }

  /// TopK of every layer, k being its gradient's capacity.
  void select(Context& ctx) {
    selections_.clear();
    kept_.clear();
    for (const Part& part : parts_) {
      const MatrixView<C> core = part.layer->core(ctx);
      part.gradient->set_count(part.gradient->capacity());
      selections_.push_back({core.data, core.size(), part.gradient->count(), part.gradient->indices(),
                             part.gradient->values()});
      kept_.push_back(MatrixView<const C>(part.gradient->values(), 1, part.gradient->count()));
    }
    B::template top_k_batched<C>(ctx, std::span<const TopKTask<C>>(selections_));
  }
  /// Number of the first part with NaN or Inf among the entries that `select` kept (and so in its core), or -1. Waits.
  index_t first_nonfinite(Context& ctx) const {
    return B::template first_nonfinite_batched<C>(ctx, std::span<const MatrixView<const C>>(kept_));
  }
  /// The same without waiting: the guard then stops the step that `update` is to take; with `raise` the context's StepFlag
  /// says so, and stops the steps after it.
  void guard(Context& ctx, bool raise, StepGuard guard) const {
    B::template guard_step<C>(ctx, std::span<const MatrixView<const C>>(kept_), raise, guard);
  }

  /// Moments and weights of every part, all of which `fits` and have the same optimizer options but for the capacity:
  ///     W <- (1 - decay) W + V D U^T     (of a narrow weight: its master, which is then rounded)
  /// D is formed in the memory of the core, which is lost. Where the guard stops, D is 0 and W does not decay. Throws,
  /// before anything has changed, what SparseAdam::check throws.
  void update(Context& ctx, const StepOptions& options, double decay, StepGuard guard = {}) {
    if (parts_.empty()) return;
    for (const Part& part : parts_)
      part.adam->check(ctx, *part.gradient);
    const AdamCoefficients c = parts_.front().adam->coefficients(options);
    sparse_.clear();
    states_.clear();
    for (const Part& part : parts_) {
      const MatrixView<C> d = part.layer->core(ctx);
      if (!part.gradient->dense()) sparse_.push_back(d);
      states_.push_back(part.adam->take_step(ctx, *part.gradient, d.data));
      states_.back().counter = part.counter;
    }
    B::template zero_batched<C>(ctx, std::span<const MatrixView<C>>(sparse_));
    B::template adam_batched<C>(ctx, c, std::span<const AdamTask<C>>(states_), guard);
    auto keep = static_cast<C>(1 - decay);
    if (guard.word != nullptr && decay != 0) {
      // Whether W decays is known on the device alone, and a product takes its factor from the host.
      decay_weights(ctx, keep, guard);
      keep = C(1);
    }
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      expand_out_sides(ctx, layout, keep);
      expand_in_sides(ctx, layout, keep);
    }
    for (const Part& part : parts_) {
      if (one_sided(part)) continue;
      if (keep != C(1)) B::template scale<C>(ctx, keep, part.layer->master());
      if (expands_sparsely(ctx, part)) {
        expand_sparsely(ctx, part);
      } else {
        detail::expand_dense<C, B>(ctx, *part.layer->basis(), part.layer->core(ctx),
                                   part.layer->options().layout, part.layer->options().cost_model,
                                   part.layer->master());
      }
    }
    for (const Part& part : parts_)
      part.layer->round_master(ctx);
  }

 private:
  struct Part {
    Layer* layer = nullptr;
    Gradient* gradient = nullptr;
    Adam* adam = nullptr;
    std::int64_t* counter = nullptr;
  };

  void decay_weights(Context& ctx, C keep, StepGuard guard) {
    begin_products();
    for (const Part& part : parts_) {
      const MatrixView<C> w = part.layer->master();
      if (w.contiguous()) {
        weights_.push_back(w);
        continue;
      }
      for (index_t i = 0; i < w.rows; ++i)
        weights_.push_back(w.block(i, 0, 1, w.cols));
    }
    B::template scale_batched<C>(ctx, keep, std::span<const MatrixView<C>>(weights_), guard);
  }

  /// One side is a factor, the other the identity: the way back is one product.
  static bool one_sided(const Part& part) {
    const auto& out = part.layer->basis()->out();
    const auto& in = part.layer->basis()->in();
    return (out.has_factor() && !in.rotates()) || (in.has_factor() && !out.rotates());
  }

  /// Two factors and an update of few entries: the first product reads the entries alone, with no list of them and nothing
  /// to wait for.
  static bool expands_sparsely(const Context& ctx, const Part& part) {
    const auto& out = part.layer->basis()->out();
    const auto& in = part.layer->basis()->in();
    const auto& s = *part.gradient;
    return out.has_factor() && in.has_factor() && !s.dense() &&
           std::max(out.rank(), in.rank()) <= B::most_expanded &&
           B::expansion_cost(ctx) * static_cast<double>(s.count()) < static_cast<double>(s.size());
  }
  /// Along the side of more vectors, so that the dense product has the fewer:
  ///     P [c, out] = (V D)^T, W [out, in] += P^T U^T      or      P [r, in] = D U^T, W [out, in] += V P
  void expand_sparsely(Context& ctx, const Part& part) {
    const auto& out = part.layer->basis()->out();
    const auto& in = part.layer->basis()->in();
    const bool columns = out.rank() >= in.rank();
    const auto& sparse = columns ? out : in;
    const auto& dense = columns ? in : out;
    auto frame = ctx.frame();
    const MatrixView<C> panel = frame.template matrix<C>(dense.rank(), sparse.extent());
    B::template expand_nonzeros<C>(ctx, part.layer->core(ctx), columns, sparse.factor(), panel);
    const bool out_in = part.layer->options().layout == WeightLayout::out_in;
    const MatrixView<const C> expanded = panel;
    // Rows of W are those of the side whose matrix stands left.
    const bool panel_left = columns == out_in;
    B::template gemm<C>(ctx, Op::transpose, Op::none, C(1), panel_left ? expanded : dense.factor(),
                        panel_left ? dense.factor() : expanded, C(1), part.layer->master());
  }

  /// D [r, in] and the factor V^T [r, out]:  W [out, in] += V D,  or  W [in, out] += D^T V^T.
  void expand_out_sides(Context& ctx, WeightLayout layout, C keep) {
    const bool out_in = layout == WeightLayout::out_in;
    begin_products();
    for (const Part& part : parts_) {
      if (!one_sided(part) || part.layer->options().layout != layout) continue;
      const auto& side = part.layer->basis()->out();
      if (!side.has_factor()) continue;
      const MatrixView<const C> d = part.layer->core(ctx);
      left_.push_back(out_in ? side.factor() : d);
      right_.push_back(out_in ? d : side.factor());
      weights_.push_back(part.layer->master());
    }
    multiply(ctx, Op::transpose, Op::none, keep);
  }

  /// D [out, c] and the factor U^T [c, in]:  W [out, in] += D U^T,  or  W [in, out] += U D^T.
  void expand_in_sides(Context& ctx, WeightLayout layout, C keep) {
    const bool out_in = layout == WeightLayout::out_in;
    begin_products();
    for (const Part& part : parts_) {
      if (!one_sided(part) || part.layer->options().layout != layout) continue;
      const auto& side = part.layer->basis()->in();
      if (!side.has_factor()) continue;
      const MatrixView<const C> d = part.layer->core(ctx);
      left_.push_back(out_in ? d : side.factor());
      right_.push_back(out_in ? side.factor() : d);
      weights_.push_back(part.layer->master());
    }
    multiply(ctx, out_in ? Op::none : Op::transpose, out_in ? Op::none : Op::transpose, keep);
  }

  void begin_products() {
    left_.clear();
    right_.clear();
    weights_.clear();
  }
  void multiply(Context& ctx, Op op_left, Op op_right, C keep) {
    if (weights_.empty()) return;
    B::template gemm_batched<C>(ctx, op_left, op_right, C(1), std::span<const MatrixView<const C>>(left_),
                                std::span<const MatrixView<const C>>(right_), keep,
                                std::span<const MatrixView<C>>(weights_));
  }

  // Kept from step to step, so that a step takes no memory.
  std::vector<Part> parts_;
  std::vector<TopKTask<C>> selections_;
  std::vector<MatrixView<const C>> kept_;
  std::vector<AdamTask<C>> states_;
  std::vector<MatrixView<C>> sparse_;
  std::vector<MatrixView<const C>> left_, right_;
  std::vector<MatrixView<C>> weights_;
};

}  // namespace sparsegrad
