#pragma once

#include <utility>
#include <vector>

#include "models/mlp/accumulated_update.hpp"
#include "models/mlp/frozen_weight.hpp"
#include "models/mlp/trained_matrix.hpp"

namespace sparsegrad::finetune {

/// Stays in the blocks of its file, with what its optimizer has added kept beside it: run types sparse and topk on a
/// quantised base. Products are with W' = W + the updates, one matrix at a time.
template <class T, class Backend>
class UpdatedMatrix final : public TrainedMatrix<T, Backend> {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  using Layer = SparseGradLinear<T, Backend>;
  using Update = AccumulatedUpdate<C, Backend>;

  /// `layer`, of a weight that is kept elsewhere, and `update` must outlive this.
  UpdatedMatrix(Layer& layer, const Parameter<T>& weight, const Update& update)
      : TrainedMatrix<T, Backend>(layer), weight_(weight, &update), update_(update) {}

  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> saved, MatrixView<T> y) override {
    this->input_ = this->layer_.gradient().save(ctx, x, saved);
    weight_.forward(ctx, x, y);
  }
  void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T>, MatrixView<T>, MatrixView<T>,
                MatrixView<T> dx, InputGradient mode) override {
    this->layer_.gradient().add_tokens(ctx, dy, this->input_);
    weight_.backward(ctx, dy, mode == InputGradient::add ? C(1) : C(0), dx);
  }

  /// values <- W'.
  bool merge(Context& ctx, std::span<C> values) const override {
    update_.apply(ctx, MatrixView<C>(values.data(), update_.rows(), update_.cols()), true);
    return true;
  }

 private:
  FrozenWeight<T, Backend> weight_;
  const Update& update_;
};

}  // namespace sparsegrad::finetune
