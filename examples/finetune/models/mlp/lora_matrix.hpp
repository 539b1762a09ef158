#pragma once

#include <vector>

#include "models/mlp/frozen_weight.hpp"
#include "models/mlp/lora.hpp"
#include "models/mlp/mlp_matrix.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// Stays as it is, in memory or packed, with an adapter beside it, whose two matrices are parameters of the dense optimizer: run type lora.
template <class T, class Backend>
class LoraMatrix final : public MlpMatrix<T, Backend> {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;

  LoraMatrix(FrozenWeight<T, Backend> weight, const Parameter<T>& a, const Parameter<T>& b, double scale)
      : weight_(std::move(weight)),
        lora_{a.factor(), b.factor(), a.gradient, b.gradient, static_cast<C>(scale)},
        a_(a.weight),
        b_(b.weight) {}

  index_t saved_cols(bool) const override { return lora_.rank(); }
  index_t work_cols() const override { return lora_.rank(); }
  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> saved, MatrixView<T> y) override {
    weight_.forward(ctx, x, y);
    lora_.forward(ctx, x, saved, y);
  }
  void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T> x, MatrixView<T> saved,
                MatrixView<T> work, MatrixView<T> dx, InputGradient mode) override {
    weight_.backward(ctx, dy, mode == InputGradient::add ? C(1) : C(0), dx);
    lora_.backward(ctx, dy, x, saved, work, dx);
  }

  /// values <- W + scale B A.
  bool merge(Context& ctx, std::span<C> values) const override {
    const std::vector<C> host_a = on_host(ctx, a_);
    const std::vector<C> host_b = on_host(ctx, b_);
    const MatrixView<const C> a(host_a.data(), a_.rows, a_.cols);
    const MatrixView<const C> b(host_b.data(), b_.rows, b_.cols);
    for (index_t i = 0; i < b.rows; ++i) {
      C* row = values.data() + i * a.cols;
      for (index_t r = 0; r < a.rows; ++r) {
        const C factor = lora_.scale * b(i, r);
        for (index_t j = 0; j < a.cols; ++j)
          row[j] += factor * a(r, j);
      }
    }
    return true;
  }

 private:
  static std::vector<C> on_host(Context& ctx, MatrixView<const C> matrix) {
    std::vector<C> values(static_cast<std::size_t>(matrix.size()));
    Backend::template download<C>(ctx, matrix.data, values.data(), matrix.size());
    return values;
  }

  FrozenWeight<T, Backend> weight_;
  Lora<T, Backend> lora_;
  MatrixView<const C> a_, b_;  ///< as they are trained and kept in files
};

}  // namespace sparsegrad::finetune
