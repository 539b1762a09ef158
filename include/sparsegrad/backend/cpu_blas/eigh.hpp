// The symmetric eigenproblem by LAPACKE.
#pragma once

#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../../core/float_bits.hpp"
#include "../host/blas_threads.hpp"
#include "../host/dense.hpp"
#include "serial.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::detail {

/// The contract's `eigh` for the backends that have a BLAS.
struct BlasEigh {
  /// Tridiagonal form (dsytrd), its vectors (dstemr), then those of A by products with blocks of
  /// reflectors: dsyevr with wider blocks. Working memory: n x n numbers, and 3 n to each reflector
  /// of a block. Vectors orthogonal to about 1e-12. The tridiagonal form is made on one thread below
  /// order 4096, see `reduction_threads`.
  static void eigh(host::HostContext& ctx, MatrixView<double> a, double* w) {
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
      const host::BlasThreads threads(reduction_threads(ctx, n));
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
  /// Threads of the BLAS for dsytrd and dstemr. dsytrd waits for all threads some five times a column;
  /// on a busy machine each wait lasts until a thread that was taken off its processor runs again,
  /// milliseconds, and the whole took a hundred times as long. So large that a column is more work
  /// than such a wait, or on one thread.
  static int reduction_threads(const host::HostContext& ctx, index_t order) {
    return ctx.deterministic() || order < 4096 ? 1 : ctx.threads();
  }

  /// Multiplies the lower triangle of A by the power of two whose exponent is returned, where its
  /// numbers are so large or small that their squares might leave the range of double.
  static int bring_in_range(MatrixView<double> a) {
    double largest = 0;
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j <= i; ++j)
        largest = (std::max)(largest, std::abs(a(i, j)));
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
  static void reflect(host::HostContext& ctx, MatrixView<const double> a, const std::vector<double>& tau,
                      MatrixView<double> m) {
    constexpr index_t block = 128;
    const index_t n = a.rows;
    const index_t most = (std::min)(block, n);
    std::vector<double> memory(static_cast<std::size_t>(3 * most * n + 2 * most * most));
    for (index_t first = 1; first < n; first += block) {
      const index_t count = (std::min)(block, n - first);
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
      Products::gemm<double>(ctx, Op::none, Op::transpose, 1.0, v, v, 0.0, inner);
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
      Products::gemm<double>(ctx, Op::none, Op::transpose, 1.0, target, v, 0.0, shares);
      Products::gemm<double>(ctx, Op::none, Op::none, 1.0, shares, t, 0.0, turned);
      Products::gemm<double>(ctx, Op::none, Op::none, -1.0, turned, v, 1.0, target);
    }
  }

  using Products = host::Dense<BlasSerial>;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::detail
