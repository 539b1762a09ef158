// The serial products of CBLAS, for host::Dense.
#pragma once

#include <cblas.h>

#include <algorithm>
#include <span>
#include <type_traits>

#include "../host/blas_threads.hpp"
#include "../host/dense.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::detail {

/// One product of float or double on the calling thread.
struct BlasSerial {
  template <class T>
  static index_t pack_count(index_t, index_t, index_t) {
    return 0;
  }
  template <class T>
  static void gemm(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
                   MatrixView<T> c, std::span<T>) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "CBLAS knows float and double");
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    if (depth == 0 || beta == T(0)) {
      for (index_t i = 0; i < c.rows && depth == 0; ++i)
        for (index_t j = 0; j < c.cols; ++j)
          c(i, j) = beta == T(0) ? T(0) : beta * c(i, j);
      if (depth == 0) return;
    }
    const auto transposed = [](Op op) { return op == Op::none ? CblasNoTrans : CblasTrans; };
    const auto leading = [](MatrixView<const T> m) {
      return static_cast<blasint>(m.stride > 0 ? m.stride : 1);
    };
    const auto rows = static_cast<blasint>(c.rows);
    const auto cols = static_cast<blasint>(c.cols);
    const auto inner = static_cast<blasint>(depth);
    const auto ld_c = static_cast<blasint>(c.stride > 0 ? c.stride : 1);
    const host::BlasThreads serial(1);
    if constexpr (std::is_same_v<T, float>) {
      cblas_sgemm(CblasRowMajor, transposed(op_a), transposed(op_b), rows, cols, inner, alpha, a.data,
                  leading(a), b.data, leading(b), beta, c.data, ld_c);
    } else {
      cblas_dgemm(CblasRowMajor, transposed(op_a), transposed(op_b), rows, cols, inner, alpha, a.data,
                  leading(a), b.data, leading(b), beta, c.data, ld_c);
    }
  }
  /// Lower triangle of C = op(A) op(A)^T.
  template <class T>
  static void lower_gram(Op op, MatrixView<const T> a, MatrixView<T> c, std::span<T>) {
    const index_t depth = op == Op::none ? a.cols : a.rows;
    if (depth == 0) {
      for (index_t i = 0; i < c.rows; ++i)
        std::fill(c.row(i), c.row(i) + c.cols, T(0));
      return;
    }
    const auto transposed = op == Op::none ? CblasNoTrans : CblasTrans;
    const auto n = static_cast<blasint>(c.rows);
    const auto k = static_cast<blasint>(depth);
    const auto ld_a = static_cast<blasint>(a.stride);
    const auto ld_c = static_cast<blasint>(c.stride);
    const host::BlasThreads serial(1);
    if constexpr (std::is_same_v<T, float>) {
      cblas_ssyrk(CblasRowMajor, CblasLower, transposed, n, k, 1, a.data, ld_a, 0, c.data, ld_c);
    } else {
      cblas_dsyrk(CblasRowMajor, CblasLower, transposed, n, k, 1, a.data, ld_a, 0, c.data, ld_c);
    }
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::detail
