// Orthonormal rows by blocked Gram-Schmidt.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend.hpp"
#include "buffer.hpp"
#include "float_bits.hpp"
#include "random.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Replaces the rows of X [r, n], r <= n, by orthonormal ones, row i in the span of the rows up to
/// i and on its own side of the earlier ones' span (the Q of a QR decomposition with positive
/// diagonal). A row that depends on the earlier ones becomes a random direction by `seed`. Block
/// Gram-Schmidt, every block twice ("twice is enough": Giraud, Langou, Rozloznik 2005); products on
/// the backend, the blocks on the host.
template <Backend B>
void orthonormalize_rows(typename B::Context& ctx, MatrixView<double> x, std::uint64_t seed) {
  constexpr index_t block = 32;
  constexpr double dependent = 1e-8;
  const index_t n = x.cols;
  std::vector<double> panel(static_cast<std::size_t>((std::min)(block, x.rows) * n));
  std::vector<double> before(static_cast<std::size_t>(block));
  Buffer<double, B> work(ctx, (std::min)(block, x.rows) * (x.rows + n));
  for (index_t first = 0; first < x.rows; first += block) {
    const index_t rows = (std::min)(block, x.rows - first);
    const MatrixView<double> contiguous(work.data(), rows, n);
    const MatrixView<double> part = x.block(first, 0, rows, n);
    const MatrixView<double> host(panel.data(), rows, n);
    bool settled = false;
    for (std::uint64_t attempt = 0; !settled; ++attempt) {
      settled = true;
      for (int pass = 0; pass < 2; ++pass) {
        if (pass == 0) {
          B::template copy<double>(ctx, part, contiguous);
          B::template download<double>(ctx, contiguous.data, panel.data(), rows * n);
          for (index_t i = 0; i < rows; ++i) {
            double sum = 0;
            for (index_t j = 0; j < n; ++j)
              sum += host(i, j) * host(i, j);
            before[static_cast<std::size_t>(i)] = std::sqrt(sum);
          }
        }
        if (first > 0) {
          const MatrixView<double> done = x.block(0, 0, first, n);
          const MatrixView<double> shares(work.data() + rows * n, rows, first);
          B::template gemm<double>(ctx, Op::none, Op::transpose, 1.0, part, done, 0.0, shares);
          B::template gemm<double>(ctx, Op::none, Op::none, -1.0, shares, done, 1.0, part);
          B::template copy<double>(ctx, part, contiguous);
          B::template download<double>(ctx, contiguous.data, panel.data(), rows * n);
        }
        for (index_t i = 0; i < rows; ++i) {
          double* row = host.row(i);
          for (index_t e = 0; e < i; ++e) {
            const double* q = host.row(e);
            double dot = 0;
            for (index_t j = 0; j < n; ++j)
              dot += q[j] * row[j];
            for (index_t j = 0; j < n; ++j)
              row[j] -= dot * q[j];
          }
          double sum = 0;
          for (index_t j = 0; j < n; ++j)
            sum += row[j] * row[j];
          const double norm = std::sqrt(sum);
          if (pass == 0 && (!is_finite(norm) || norm <= dependent * before[static_cast<std::size_t>(i)])) {
            for (index_t j = 0; j < n; ++j) {
              row[j] = random_normal(mix64(seed + attempt), static_cast<std::uint64_t>((first + i) * n + j));
            }
            settled = false;
            continue;
          }
          for (index_t j = 0; j < n; ++j)
            row[j] /= norm;
        }
        B::template upload<double>(ctx, panel.data(), contiguous.data, rows * n);
        B::template copy<double>(ctx, contiguous, part);
        if (!settled) break;
      }
    }
  }
}

/// Rows of random orthonormal vectors [r, n]: the Q of a matrix of normal numbers, uniform over all
/// such (Mezzadri 2007).
template <Backend B>
void random_orthonormal_rows(typename B::Context& ctx, std::uint64_t seed, MatrixView<double> x) {
  std::vector<double> row(static_cast<std::size_t>(x.cols));
  for (index_t i = 0; i < x.rows; ++i) {
    for (index_t j = 0; j < x.cols; ++j) {
      row[static_cast<std::size_t>(j)] = random_normal(seed, static_cast<std::uint64_t>(i * x.cols + j));
    }
    B::template upload<double>(ctx, row.data(), x.row(i), x.cols);
  }
  orthonormalize_rows<B>(ctx, x, mix64(seed));
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
