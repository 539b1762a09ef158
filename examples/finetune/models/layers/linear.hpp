#pragma once

#include <sparsegrad/core/backend.hpp>

namespace sparsegrad::finetune {

/// S = alpha op(A) op(B) + beta S with A, B stored in T, the result in compute_t<T>: gradients and logits.
template <class T, class Backend>
void wide_product(typename Backend::Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                  ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> s) {
  if constexpr (is_low_precision<T>) {
    Backend::template gemm_wide<T>(ctx, op_a, op_b, alpha, a, b, beta, s);
  } else {
    Backend::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, s);
  }
}

/// y = x W^T with W [out, in]; the bias is left to whoever reads y next. A gradient that is empty is not computed.
template <class T, class Backend>
struct Linear {
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  MatrixView<const T> weight;
  MatrixView<C> d_weight;

  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> y) const {
    Backend::template gemm<T>(ctx, Op::none, Op::transpose, C(1), x, weight, C(0), y);
  }
  /// dx = dy W + beta dx (empty: skipped); d_weight += dy^T x.
  void backward(Context& ctx, MatrixView<const T> dy, MatrixView<const T> x, C beta, MatrixView<T> dx) const {
    if (!dx.empty()) Backend::template gemm<T>(ctx, Op::none, Op::none, C(1), dy, weight, beta, dx);
    if (!d_weight.empty())
      wide_product<T, Backend>(ctx, Op::transpose, Op::none, C(1), dy, x, C(1), d_weight);
  }
};

}  // namespace sparsegrad::finetune
