// RMSNorm's kernels.
#pragma once

#include <cmath>

#include "../rms_norm.hpp"
#include "block_sum.cuh"
#include "column_sums.cuh"

namespace sparsegrad::finetune::device {

/// x += residual + bias (each may be left out), then y = norm(x) and rstd; a block takes a row. What a thread has
/// written it reads again.
template <class T, int N>
struct AddRmsNormRows {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  struct Shared {
    BlockSum<threads, C> squares;
  };

  RmsNorm<C> norm;
  const C* bias;
  Array2<const T> residual;
  Array2<T> x;
  index_t cols;
  C* rstd;
  Array2<T> y;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      C squares = 0;
      for (index_t j = thread * N; j < cols; j += threads * N) {
        auto v = load_pack<T, N>(&x(row, j));
        if (residual.data != nullptr) {
          const auto r = load_pack<T, N>(&residual(row, j));
          Pack<C, N> b{};
          if (bias != nullptr) b = load_pack<C, N>(bias + j);
          for (int i = 0; i < N; ++i)
            v.x[i] = v.x[i] + b.x[i] + r.x[i];
          v = store_pack<T, N>(&x(row, j), v);
        }
        for (int i = 0; i < N; ++i)
          squares += v.x[i] * v.x[i];
      }
      shared.squares.put(thread, squares);
    } else if constexpr (P == 1) {
      shared.squares.gather(thread);
    } else {
      const C inverse = C(1) / std::sqrt(shared.squares.total() / static_cast<C>(cols) + norm.eps);
      for (index_t j = thread * N; j < cols; j += threads * N) {
        auto v = load_pack<T, N>(&x(row, j));
        const auto gamma = load_pack<C, N>(norm.gamma + j);
        for (int i = 0; i < N; ++i)
          v.x[i] = gamma.x[i] * (v.x[i] * inverse);
        store_pack<T, N>(&y(row, j), v);
      }
      if (thread == 0) rstd[row] = inverse;
    }
  }
};

/// y = gamma x rstd, N entries of a row.
template <class T, int N>
struct RmsNormAgain {
  using C = compute_t<T>;
  const C* gamma;
  Array2<const T> x;
  const C* rstd;
  Array2<T> y;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t row, index_t pack) const {
    const index_t j = pack * N;
    auto v = load_pack<T, N>(&x(row, j));
    const auto g = load_pack<C, N>(gamma + j);
    const C r = rstd[row];
    for (int i = 0; i < N; ++i)
      v.x[i] = g.x[i] * (v.x[i] * r);
    store_pack<T, N>(&y(row, j), v);
  }
};

/// g += factor rstd (dy gamma - x slope) with slope = rstd^2 mean(dy gamma x); `overwrite`: g = that. A block takes
/// some rows, and sums factor dy x rstd over them on the way, the gradient of gamma: partial [blocks, cols] (null:
/// left out).
template <class T, int N>
struct RmsNormRowsBackward {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  static constexpr int rows_of_block = 8;
  static constexpr int rows_at_once = 4;  ///< whose loads are on their way together
  struct Shared {
    BlockSum<threads, C, rows_of_block> slope;
  };

  const C* gamma;
  Array2<const T> x;
  const C* rstd;
  Array2<const T> dy;
  C factor;
  bool overwrite;
  index_t rows, cols;
  Array2<T> g;
  C* partial;

  index_t blocks() const { return (rows + rows_of_block - 1) / rows_of_block; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t first = block * rows_of_block;
    const int count = rows - first < rows_of_block ? static_cast<int>(rows - first) : rows_of_block;
    if constexpr (P == 0) {
      for (int r = 0; r < rows_of_block; r += rows_at_once)
        put_slopes(first, r, count, thread, shared);
    } else if constexpr (P == 1) {
      shared.slope.gather(thread);
    } else {
      for (index_t j = thread * N; j < cols; j += threads * N)
        write_columns(block, first, count, j, shared);
    }
  }

 private:
  /// The thread's part of the sums of the rows from r on; rows beyond the last one get sums that nobody asks for.
  SPARSEGRAD_HOST_DEVICE void put_slopes(index_t first, int r, int count, int thread, Shared& shared) const {
    C slope[rows_at_once] = {};
    for (index_t j = thread * N; j < cols; j += threads * N) {
      const auto w = load_pack<C, N>(gamma + j);
      Pack<C, N> v[rows_at_once];
      Pack<C, N> d[rows_at_once];
      for (int k = 0; k < rows_at_once; ++k) {
        const index_t row = first + (r + k < count ? r + k : count - 1);
        v[k] = load_pack<T, N>(&x(row, j));
        d[k] = load_pack<T, N>(&dy(row, j));
      }
      for (int k = 0; k < rows_at_once; ++k) {
        for (int i = 0; i < N; ++i)
          slope[k] += d[k].x[i] * w.x[i] * v[k].x[i];
      }
    }
    for (int k = 0; k < rows_at_once; ++k)
      shared.slope.put(thread, slope[k], r + k);
  }

  /// Columns j, ..., j + N - 1 of the block's rows.
  SPARSEGRAD_HOST_DEVICE void write_columns(index_t block, index_t first, int count, index_t j,
                                            const Shared& shared) const {
    const C share = C(1) / static_cast<C>(cols);
    const auto w = load_pack<C, N>(gamma + j);
    Pack<C, N> d_gamma{};
    for (int k = 0; k < count; ++k) {
      const index_t row = first + k;
      const C r = rstd[row];
      const C slope = shared.slope.total(k) * (r * r) * share;
      const C scale = factor * r;
      const auto v = load_pack<T, N>(&x(row, j));
      const auto d = load_pack<T, N>(&dy(row, j));
      Pack<C, N> sum{};
      if (!overwrite) sum = load_pack<T, N>(&g(row, j));
      for (int i = 0; i < N; ++i) {
        d_gamma.x[i] += scale * (d.x[i] * v.x[i]);
        sum.x[i] += scale * (d.x[i] * w.x[i] - v.x[i] * slope);
      }
      store_pack<T, N>(&g(row, j), sum);
    }
    if (partial != nullptr) store_pack<C, N>(partial + block * cols + j, d_gamma);
  }
};

/// RMSNorm's backward of all rows (see RmsNormRowsBackward); adds to d_gamma unless it is null.
template <class System, class T>
void rms_norm_backward(typename System::Context& ctx, const RmsNorm<compute_t<T>>& norm,
                       MatrixView<const T> x, const compute_t<T>* rstd, MatrixView<const T> dy,
                       compute_t<T> factor, bool overwrite, MatrixView<T> g) {
  using C = compute_t<T>;
  if (x.empty()) return;
  const auto run = [&](auto n, index_t) {
    RmsNormRowsBackward<T, n()> kernel{norm.gamma, x,      rstd,   dy, factor,
                                       overwrite,  x.rows, x.cols, g,  nullptr};
    auto frame = ctx.frame();
    if (norm.d_gamma != nullptr) kernel.partial = frame.template take<C>(kernel.blocks() * x.cols);
    System::launch(ctx, kernel.blocks(), kernel);
    if (norm.d_gamma == nullptr) return;
    const AddChunks<C, 1> total{kernel.partial, kernel.blocks(), x.cols, {norm.d_gamma}};
    System::launch(ctx, total.blocks(), total);
  };
  with_packs(x.cols, run, norm.gamma, x, dy, g);
}

}  // namespace sparsegrad::finetune::device
