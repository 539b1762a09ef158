#pragma once

#include "models/mlp/frozen_weight.hpp"
#include "models/mlp/mlp_matrix.hpp"

namespace sparsegrad::finetune {

/// Stays as it is, in memory or packed, and has no gradient: run type frozen-mlp, and evaluation.
template <class T, class Backend>
class ConstantMatrix final : public MlpMatrix<T, Backend> {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;

  explicit ConstantMatrix(FrozenWeight<T, Backend> weight) : weight_(std::move(weight)) {}

  index_t saved_cols(bool) const override { return 0; }
  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T>, MatrixView<T> y) override {
    weight_.forward(ctx, x, y);
  }
  void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T>, MatrixView<T>, MatrixView<T>,
                MatrixView<T> dx, InputGradient mode) override {
    weight_.backward(ctx, dy, mode == InputGradient::add ? C(1) : C(0), dx);
  }

 private:
  FrozenWeight<T, Backend> weight_;
};

}  // namespace sparsegrad::finetune
