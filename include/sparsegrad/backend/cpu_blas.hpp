// backend::CpuBlas: CBLAS for dense products, LAPACKE for the symmetric eigenproblem.
#pragma once

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "host/blas_threads.hpp"
#include "host/dense.hpp"
#include "host/kernels.hpp"

namespace sparsegrad::backend {

namespace detail {

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

}  // namespace detail

/// Products run on the context's threads, each tile a serial BLAS call: with an OpenMP or a serial build of
/// the BLAS nothing else starts threads. Extents up to 2^31 - 1 (32-bit BLAS integers).
struct CpuBlas : host::Kernels {
  static constexpr const char* name() { return "cpu_blas"; }

  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, std::type_identity_t<T> beta, MatrixView<T> c) {
    Products::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    Products::template gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    Products::template gram<T>(ctx, op, a, weight, g);
  }

  /// LAPACK's dsyevr: as fast as divide and conquer (dsyevd) for one n x n array of working memory instead of
  /// two; vectors orthogonal to about 1e-12.
  static void eigh(Context& ctx, MatrixView<double> a, double* w) {
    const index_t n = a.rows;
    if (n == 0) return;
    const host::BlasThreads threads(ctx.deterministic() ? 1 : ctx.threads());
    const auto count = static_cast<std::size_t>(n);
    const host::AlignedBytes memory = host::aligned_bytes(count * count * sizeof(double));
    auto* vectors = reinterpret_cast<double*>(memory.get());
    std::vector<lapack_int> support(2 * count);
    const auto order = static_cast<lapack_int>(n);
    lapack_int found = 0;
    // A row-major lower triangle is a column-major upper one; the eigenvectors come as columns of a
    // column-major matrix, that is as rows of ours.
    const auto info =
        LAPACKE_dsyevr(LAPACK_COL_MAJOR, 'V', 'A', 'U', order, a.data, static_cast<lapack_int>(a.stride), 0,
                       0, 0, 0, 0, &found, w, vectors, order, support.data());
    if (info != 0 || found != order) {
      throw Error("dsyevr of order " + std::to_string(n) + " failed with info " + std::to_string(info) +
                  ", " + std::to_string(found) + " eigenvalues found");
    }
    std::reverse(w, w + n);
    for (index_t i = 0; i < n; ++i) {
      const double* vector = vectors + (n - 1 - i) * n;
      std::copy(vector, vector + n, a.row(i));
    }
  }

 private:
  using Products = host::Dense<detail::BlasSerial>;
};

}  // namespace sparsegrad::backend
