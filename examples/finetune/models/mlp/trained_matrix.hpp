#pragma once

#include <sparsegrad/sparse_grad_linear.hpp>

#include "models/mlp/mlp_matrix.hpp"

namespace sparsegrad::finetune {

/// Has a gradient in the library's layer, in whose basis an optimizer reads it: run types ft, sparse and topk, which
/// differ in that optimizer alone.
template <class T, class Backend>
class TrainedMatrix : public MlpMatrix<T, Backend> {
 public:
  using Context = typename Backend::Context;
  using Layer = SparseGradLinear<T, Backend>;

  /// The layer, which has no bias, must outlive this.
  explicit TrainedMatrix(Layer& layer) : layer_(layer) {}

  index_t saved_cols(bool training) const override { return training ? layer_.kept_cols() : 0; }
  /// Not where forward keeps x in projected form.
  bool keeps_input() const override { return layer_.kept_cols() == 0; }
  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> saved, MatrixView<T> y) override {
    input_ = layer_.forward(ctx, x, y, saved);
  }
  void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T>, MatrixView<T>, MatrixView<T>,
                MatrixView<T> dx, InputGradient mode) override {
    layer_.backward(ctx, dy, input_, dx, nullptr, mode);
  }

 protected:
  Layer& layer_;
  SavedInput<T> input_;
};

}  // namespace sparsegrad::finetune
