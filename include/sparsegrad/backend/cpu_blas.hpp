// backend::CpuBlas: CBLAS for dense products, LAPACKE for the symmetric eigenproblem.
#pragma once

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/float_bits.hpp"
#include "host/blas_threads.hpp"
#include "host/dense.hpp"
#include "host/kernels.hpp"
#include "host/low_precision_products.hpp"

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

/// Products run on the context's threads, each tile a serial BLAS call: with an OpenMP or a serial
/// build of the BLAS nothing else starts threads. Extents up to 2^31 - 1 (32-bit BLAS integers).
struct CpuBlas : host::Kernels {
  static constexpr const char* name() { return "cpu_blas"; }

  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (is_low_precision<T>) {
      LowPrecisionProducts::template gemm<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      Products::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    LowPrecisionProducts::template gemm<T, float>(ctx, op_a, op_b, alpha, a, b, beta, c);
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

  /// Tridiagonal form (dsytrd), its vectors (dstemr), then those of A by products with blocks of
  /// reflectors: dsyevr with wider blocks. Working memory: n x n numbers, and 3 n to each reflector
  /// of a block. Vectors orthogonal to about 1e-12.
  static void eigh(Context& ctx, MatrixView<double> a, double* w) {
    const index_t n = a.rows;
    if (n == 0) return;
    const int exponent = bring_in_range(a);
    const auto count = static_cast<std::size_t>(n);
    const auto order = static_cast<lapack_int>(n);
    const auto check = [&](const char* name, lapack_int info) {
      if (info == 0) return;
      throw Error(std::string(name) + " of order " + std::to_string(n) + " failed with info " +
                  std::to_string(info));
    };
    const host::AlignedBytes memory = host::aligned_bytes(count * count * sizeof(double));
    const MatrixView<double> vectors(reinterpret_cast<double*>(memory.get()), n, n);
    std::vector<double> tau(count);
    {
      const host::BlasThreads threads(ctx.deterministic() ? 1 : ctx.threads());
      std::vector<double> diagonal(count);
      std::vector<double> beside(count);
      std::vector<lapack_int> support(2 * count);
      // A row-major lower triangle is a column-major upper one; the eigenvectors come as columns of
      // a column-major matrix, that is as rows of ours.
      check("dsytrd", LAPACKE_dsytrd(LAPACK_COL_MAJOR, 'U', order, a.data, static_cast<lapack_int>(a.stride),
                                     diagonal.data(), beside.data(), tau.data()));
      lapack_int found = 0;
      lapack_logical accurate = 1;
      check("dstemr", LAPACKE_dstemr(LAPACK_COL_MAJOR, 'V', 'A', order, diagonal.data(), beside.data(), 0, 0,
                                     0, 0, &found, w, vectors.data, order, order, support.data(), &accurate));
      if (found != order) {
        throw Error("dstemr found " + std::to_string(found) + " eigenvalues of " + std::to_string(n));
      }
    }
    reflect(ctx, a, tau, vectors);
    std::reverse(w, w + n);
    for (index_t i = 0; i < n; ++i) {
      w[i] = std::ldexp(w[i], -exponent);
      std::copy(vectors.row(n - 1 - i), vectors.row(n - 1 - i) + n, a.row(i));
    }
  }

 private:
  /// Multiplies the lower triangle of A by the power of two whose exponent is returned, where its
  /// numbers are so large or small that their squares might leave the range of double.
  static int bring_in_range(MatrixView<double> a) {
    double largest = 0;
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j <= i; ++j)
        largest = std::max(largest, std::abs(a(i, j)));
    if (largest == 0 || !is_finite(largest) || (largest > 1e-100 && largest < 1e100)) return 0;
    const int exponent = -std::ilogb(largest);
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j <= i; ++j)
        a(i, j) = std::ldexp(a(i, j), exponent);
    return exponent;
  }

  /// M <- M H_1 H_2 ... H_(n-1) with H_i = I - tau[i - 1] v v^T, v = (A(i, 0 .. i - 2), 1, 0 ..),
  /// as dsytrd leaves them. Blocks of reflectors are I - V^T T V, T upper triangular (Schreiber,
  /// Van Loan, "A storage-efficient WY representation for products of Householder transformations",
  /// 1989).
  static void reflect(Context& ctx, MatrixView<const double> a, const std::vector<double>& tau,
                      MatrixView<double> m) {
    constexpr index_t block = 128;
    const index_t n = a.rows;
    const index_t most = std::min(block, n);
    std::vector<double> memory(static_cast<std::size_t>(3 * most * n + 2 * most * most));
    for (index_t first = 1; first < n; first += block) {
      const index_t count = std::min(block, n - first);
      const index_t length = first + count - 1;
      const MatrixView<double> v(memory.data(), count, length);
      const MatrixView<double> shares(v.data + most * n, n, count);
      const MatrixView<double> turned(shares.data + most * n, n, count);
      const MatrixView<double> inner(turned.data + most * n, count, count);
      const MatrixView<double> t(inner.data + most * most, count, count);
      for (index_t r = 0; r < count; ++r) {
        const index_t i = first + r;
        std::copy(a.row(i), a.row(i) + i - 1, v.row(r));
        v(r, i - 1) = 1;
        std::fill(v.row(r) + i, v.row(r) + length, 0.0);
      }
      gemm<double>(ctx, Op::none, Op::transpose, 1.0, v, v, 0.0, inner);
      for (index_t c = 0; c < count; ++c) {
        const double by = tau[static_cast<std::size_t>(first + c - 1)];
        for (index_t r = 0; r < count; ++r) {
          double sum = r == c ? -1.0 : 0.0;
          for (index_t s = r; s < c; ++s)
            sum += t(r, s) * inner(s, c);
          t(r, c) = -by * sum;
        }
      }
      const MatrixView<double> target = m.block(0, 0, n, length);
      gemm<double>(ctx, Op::none, Op::transpose, 1.0, target, v, 0.0, shares);
      gemm<double>(ctx, Op::none, Op::none, 1.0, shares, t, 0.0, turned);
      gemm<double>(ctx, Op::none, Op::none, -1.0, turned, v, 1.0, target);
    }
  }

  using Products = host::Dense<detail::BlasSerial>;
  using LowPrecisionProducts = host::LowPrecisionProducts<detail::BlasSerial>;
};

static_assert(Backend<CpuBlas> && LowPrecisionBackend<CpuBlas, bfloat16> &&
              LowPrecisionBackend<CpuBlas, float16>);

}  // namespace sparsegrad::backend
