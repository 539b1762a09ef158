// LayerNorm's kernels.
#pragma once

#include <cmath>

#include "../layer_norm.hpp"
#include "block_sum.cuh"
#include "column_sums.cuh"
#include "fast_math.cuh"
#include "mask.cuh"

namespace sparsegrad::finetune::device {

/// xhat and y = dropout(gamma xhat + beta) of the rows z that source.row(i) gives, N entries at a time; a block
/// takes a row. Asks for a z twice, the second time before it writes there: xhat may be what Source reads, and
/// nothing is rounded to T on the way.
template <class T, int N, class Source>
struct NormalizeRows {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 4;
  struct Shared {
    BlockMoments<threads, C> moments;
    C mean, inverse;
    typename Source::Row z;  ///< once for the block: the key of a row's mask takes many instructions
  };

  Source source;
  LayerNorm<C> norm;
  Dropout<C> dropout;  ///< of y
  index_t cols;
  Array2<T> xhat;
  C* rstd;
  Array2<T> y;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      const auto z = source.row(row);
      if (thread == 0) shared.z = z;
      shared.moments.put(thread, moments_of(z, thread));
    } else if constexpr (P == 1) {
      shared.moments.gather(thread);
    } else if constexpr (P == 2) {
      if (thread > 0) return;
      const Moments<C> all = shared.moments.total();
      shared.mean = all.mean;
      shared.inverse = C(1) / std::sqrt(all.squares / static_cast<C>(cols) + norm.eps);
      rstd[row] = shared.inverse;
    } else {
      const C mean = shared.mean;
      const C inverse = shared.inverse;
      const typename Source::Row z = shared.z;
      const MaskRow<C> mask(dropout, row);
      for (index_t j = thread * N; j < cols; j += threads * N) {
        auto v = z.template at<N>(j);
        const auto gamma = load_pack<C, N>(norm.gamma + j);
        const auto beta = load_pack<C, N>(norm.beta + j);
        Pack<C, N> scaled;
        for (int e = 0; e < N; ++e) {
          v.x[e] = (v.x[e] - mean) * inverse;
          scaled.x[e] = gamma.x[e] * v.x[e] + beta.x[e];
        }
        mask.multiply(scaled, j);
        store_pack<T, N>(&xhat(row, j), v);
        store_pack<T, N>(&y(row, j), scaled);
      }
    }
  }

 private:
  /// Of the thread's part of a row, from sums of distances from the mean of its first pack.
  SPARSEGRAD_HOST_DEVICE Moments<C> moments_of(const typename Source::Row& z, int thread) const {
    C count = 0;
    C centre = 0;
    C sum = 0;
    C squares = 0;
    for (index_t j = thread * N; j < cols; j += threads * N) {
      const auto v = z.template at<N>(j);
      if (count == 0) {
        for (int e = 0; e < N; ++e)
          centre += v.x[e];
        centre *= C(1) / N;
      }
      for (int e = 0; e < N; ++e) {
        const C distance = v.x[e] - centre;
        sum += distance;
        squares += distance * distance;
      }
      count += N;
    }
    if (count == 0) return {0, 0, 0};
    const C shift = sum * reciprocal<T>(count);
    return {count, centre + shift, squares - sum * shift};
  }
};

/// x's rows with bias and dropout, and the residual.
template <class T>
struct ResidualSource {
  using C = compute_t<T>;
  Dropout<C> dropout;
  const C* bias;
  Array2<const T> x;
  Array2<const T> residual;

  struct Row {
    MaskRow<C> mask;
    const C* bias;
    const T* x;
    const T* residual;
    template <int N>
    SPARSEGRAD_HOST_DEVICE Pack<C, N> at(index_t j) const {
      auto z = load_pack<T, N>(x + j);
      const auto b = load_pack<C, N>(bias + j);
      const auto r = load_pack<T, N>(residual + j);
      for (int e = 0; e < N; ++e)
        z.x[e] += b.x[e];
      mask.multiply(z, j);
      for (int e = 0; e < N; ++e)
        z.x[e] += r.x[e];
      return z;
    }
  };
  SPARSEGRAD_HOST_DEVICE Row row(index_t i) const {
    return {MaskRow<C>(dropout, i), bias, &x(i, 0), &residual(i, 0)};
  }
};

/// From dy = g + extra (no extra: null): g <- dz = rstd (dy gamma - mean(dy gamma) - xhat mean(dy gamma xhat)), and
/// dx = mask dz (null: left out). A block takes some rows, and sums dy xhat, dy and dx over them on the way, the
/// gradients of gamma, beta and the product's bias: partial [blocks, 3, cols] (null: left out).
template <class T, int N>
struct NormalizeRowsBackward {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  static constexpr int rows_of_block = 8;
  static constexpr int rows_at_once = 4;  ///< whose loads are on their way together
  static constexpr int sets = 3;
  struct Shared {
    BlockSum<threads, C, rows_of_block> sum;
    BlockSum<threads, C, rows_of_block> slope;
    MaskRow<C> mask[rows_of_block];
  };

  const C* gamma;
  Dropout<C> dropout;
  index_t rows, cols;
  Array2<const T> xhat;
  const C* rstd;
  Array2<const T> extra;
  Array2<T> g;
  Array2<T> dx;
  C* partial;

  index_t blocks() const { return (rows + rows_of_block - 1) / rows_of_block; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t first = block * rows_of_block;
    const int count = rows - first < rows_of_block ? static_cast<int>(rows - first) : rows_of_block;
    if constexpr (P == 0) {
      for (int r = 0; r < rows_of_block; r += rows_at_once)
        put_sums(first, r, count, thread, shared);
    } else if constexpr (P == 1) {
      shared.sum.gather(thread);
      shared.slope.gather(thread);
      if (thread < count) shared.mask[thread] = MaskRow<C>(dropout, first + thread);
    } else {
      for (index_t j = thread * N; j < cols; j += threads * N)
        write_columns(block, first, count, j, shared);
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE Pack<C, N> dy(index_t row, index_t j) const {
    auto sum = load_pack<T, N>(&g(row, j));
    if (extra.data != nullptr) {
      const auto more = load_pack<T, N>(&extra(row, j));
      for (int e = 0; e < N; ++e)
        sum.x[e] += more.x[e];
    }
    return sum;
  }

  /// The thread's part of both sums of the rows from r on; rows beyond the last one get sums that nobody asks for.
  SPARSEGRAD_HOST_DEVICE void put_sums(index_t first, int r, int count, int thread, Shared& shared) const {
    C sum[rows_at_once] = {};
    C slope[rows_at_once] = {};
    for (index_t j = thread * N; j < cols; j += threads * N) {
      const auto w = load_pack<C, N>(gamma + j);
      Pack<C, N> d[rows_at_once];
      Pack<C, N> x[rows_at_once];
      for (int k = 0; k < rows_at_once; ++k) {
        const index_t row = first + (r + k < count ? r + k : count - 1);
        d[k] = dy(row, j);
        x[k] = load_pack<T, N>(&xhat(row, j));
      }
      for (int k = 0; k < rows_at_once; ++k) {
        for (int e = 0; e < N; ++e) {
          const C product = d[k].x[e] * w.x[e];
          sum[k] += product;
          slope[k] += product * x[k].x[e];
        }
      }
    }
    for (int k = 0; k < rows_at_once; ++k) {
      shared.sum.put(thread, sum[k], r + k);
      shared.slope.put(thread, slope[k], r + k);
    }
  }

  /// Columns j, ..., j + N - 1 of the block's rows.
  SPARSEGRAD_HOST_DEVICE void write_columns(index_t block, index_t first, int count, index_t j,
                                            const Shared& shared) const {
    const C share = C(1) / static_cast<C>(cols);
    const auto w = load_pack<C, N>(gamma + j);
    Pack<C, N> d_gamma{};
    Pack<C, N> d_beta{};
    Pack<C, N> d_bias{};
    for (int r = 0; r < count; ++r) {
      const index_t row = first + r;
      const C scale = rstd[row];
      const C mean = shared.sum.total(r) * share;
      const C slope = shared.slope.total(r) * share;
      auto d = dy(row, j);
      const auto x = load_pack<T, N>(&xhat(row, j));
      for (int e = 0; e < N; ++e) {
        d_gamma.x[e] += d.x[e] * x.x[e];
        d_beta.x[e] += d.x[e];
        d.x[e] = scale * (d.x[e] * w.x[e] - mean - x.x[e] * slope);
      }
      store_pack<T, N>(&g(row, j), d);
      if (dx.data != nullptr) {
        shared.mask[r].multiply(d, j);
        store_pack<T, N>(&dx(row, j), d);
      }
      for (int e = 0; e < N; ++e)
        d_bias.x[e] += d.x[e];
    }
    if (partial == nullptr) return;
    C* const to = partial + block * sets * cols + j;
    store_pack<C, N>(to, d_gamma);
    store_pack<C, N>(to + cols, d_beta);
    store_pack<C, N>(to + 2 * cols, d_bias);
  }
};

/// LayerNorm's backward of all rows from dy = g + extra (which may be empty): g <- dz, dx = mask dz (empty: left
/// out); adds to d_gamma, d_beta and d_bias, the column sums of mask dz, unless they are null.
template <class System, class T>
void norm_backward(typename System::Context& ctx, const LayerNorm<compute_t<T>>& norm,
                   MatrixView<const T> xhat, const compute_t<T>* rstd, MatrixView<T> g,
                   MatrixView<const T> extra, const Dropout<compute_t<T>>& dropout, MatrixView<T> dx,
                   compute_t<T>* d_bias) {
  using C = compute_t<T>;
  if (g.empty()) return;
  const auto run = [&](auto n, index_t) {
    using Kernel = NormalizeRowsBackward<T, n()>;
    Kernel kernel{norm.gamma, dropout, g.rows, g.cols, xhat, rstd, extra, g, dx, nullptr};
    auto frame = ctx.frame();
    const bool sums = norm.d_gamma != nullptr || norm.d_beta != nullptr || d_bias != nullptr;
    if (sums) kernel.partial = frame.template take<C>(kernel.blocks() * Kernel::sets * g.cols);
    System::launch(ctx, kernel.blocks(), kernel);
    if (!sums) return;
    const AddChunks<C, Kernel::sets> total{
        kernel.partial, kernel.blocks(), g.cols, {norm.d_gamma, norm.d_beta, d_bias}};
    System::launch(ctx, total.blocks(), total);
  };
  with_packs(g.cols, run, norm.gamma, xhat, g, extra, dx);
}

}  // namespace sparsegrad::finetune::device
