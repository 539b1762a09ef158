#pragma once

#include <sparsegrad/core/backend.hpp>

namespace sparsegrad::glue {

/// y = x W^T with W [out, in]; the bias is left to whoever reads y next. A gradient that is empty is not computed.
template <class T, class Backend>
struct Linear {
  using Context = typename Backend::Context;
  MatrixView<const T> weight;
  MatrixView<T> d_weight;

  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> y) const {
    Backend::template gemm<T>(ctx, Op::none, Op::transpose, T(1), x, weight, T(0), y);
  }
  /// dx = dy W + beta dx (empty: skipped); d_weight += dy^T x.
  void backward(Context& ctx, MatrixView<const T> dy, MatrixView<const T> x, T beta, MatrixView<T> dx) const {
    if (!dx.empty()) Backend::template gemm<T>(ctx, Op::none, Op::none, T(1), dy, weight, beta, dx);
    if (!d_weight.empty())
      Backend::template gemm<T>(ctx, Op::transpose, Op::none, T(1), dy, x, T(1), d_weight);
  }
};

}  // namespace sparsegrad::glue
