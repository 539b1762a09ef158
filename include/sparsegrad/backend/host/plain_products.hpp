// Dense products in loops of C++ alone, for a host backend without a library of linear algebra.
#pragma once

#include <algorithm>
#include <span>

#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"
#include "context.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The primitives gemm, gemm_wide, gemm_batched and gram of the contract (core/backend.hpp),
/// serial. A row of the product is summed at a time, in double and in the order of the depth.
struct PlainProducts {
  /// C = alpha op(A) op(B) + beta C; A and B in T, C in T or in compute_t<T>.
  template <class T, class Out>
  static void gemm(HostContext& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<Out> c) {
    using C = compute_t<T>;
    if (c.empty()) return;
    Scratch::Frame frame(ctx.scratch());
    double* sums = frame.take<double>(c.cols);
    for (index_t i = 0; i < c.rows; ++i) {
      row_of_product<T>(op_a, a, i, op_b, b, c.cols, sums);
      for (index_t j = 0; j < c.cols; ++j) {
        double y = static_cast<double>(alpha) * sums[j];
        if (beta != C(0)) y += static_cast<double>(beta) * static_cast<double>(c(i, j));
        c(i, j) = static_cast<Out>(static_cast<C>(y));
      }
    }
  }

  template <class T>
  static void gemm_batched(HostContext& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    for (std::size_t e = 0; e < cs.size(); ++e)
      gemm<T, T>(ctx, op_a, op_b, alpha, as[e], bs[e], beta, cs[e]);
  }

  /// Lower triangle of G += weight op(A) op(A)^T.
  template <class T>
  static void gram(HostContext& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    if (g.empty()) return;
    Scratch::Frame frame(ctx.scratch());
    double* sums = frame.take<double>(g.cols);
    for (index_t i = 0; i < g.rows; ++i) {
      row_of_product<T>(op, a, i, op == Op::none ? Op::transpose : Op::none, a, i + 1, sums);
      for (index_t j = 0; j <= i; ++j)
        g(i, j) += weight * sums[j];
    }
  }

 private:
  /// sums[0 .. n) = the first n numbers in row i of op(A) op(B).
  template <class T>
  static void row_of_product(Op op_a, MatrixView<const T> a, index_t i, Op op_b, MatrixView<const T> b,
                             index_t n, double* sums) {
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    std::fill(sums, sums + n, 0.0);
    const index_t next = op_b == Op::none ? 1 : b.stride;  // from a column of op(B) to the next
    for (index_t l = 0; l < depth; ++l) {
      const auto x = static_cast<double>(op_a == Op::none ? a(i, l) : a(l, i));
      const T* y = op_b == Op::none ? b.data + l * b.stride : b.data + l;
      for (index_t j = 0; j < n; ++j)
        sums[j] += x * static_cast<double>(y[j * next]);
    }
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
