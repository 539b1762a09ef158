// LayerNorm's kernels: a block normalises a row.
#pragma once

#include <cmath>

#include "../layer_norm.hpp"
#include "block_sum.cuh"
#include "mask.cuh"

namespace sparsegrad::finetune::device {

/// xhat and y = dropout(gamma xhat + beta) of the rows z(i, j) that Source gives. Asks for a z several times, the last
/// time before it writes the entry: xhat may be what Source reads, and nothing is rounded to T on the way.
template <class T, class Source>
struct NormalizeRows {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 5;
  struct Shared {
    BlockSum<threads> sum;
    BlockSum<threads> squares;
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
      double sum = 0;
      for (index_t j = thread; j < cols; j += threads)
        sum += static_cast<double>(source(row, j));
      shared.sum.put(thread, sum);
    } else if constexpr (P == 1) {
      shared.sum.gather(thread);
    } else if constexpr (P == 2) {
      const double mean = shared.sum.total() / static_cast<double>(cols);
      double squares = 0;
      for (index_t j = thread; j < cols; j += threads) {
        const double difference = static_cast<double>(source(row, j)) - mean;
        squares += difference * difference;
      }
      shared.squares.put(thread, squares);
    } else if constexpr (P == 3) {
      shared.squares.gather(thread);
    } else {
      const double n = static_cast<double>(cols);
      const C mean = static_cast<C>(shared.sum.total() / n);
      const C inverse = C(1) / std::sqrt(static_cast<C>(shared.squares.total() / n) + norm.eps);
      for (index_t j = thread; j < cols; j += threads) {
        const C x = (source(row, j) - mean) * inverse;
        xhat(row, j) = static_cast<T>(x);
        y(row, j) = static_cast<T>((norm.gamma[j] * x + norm.beta[j]) * multiplier(dropout, row, j));
      }
      if (thread == 0) rstd[row] = inverse;
    }
  }
};

/// x's row with bias and dropout, and the residual.
template <class T>
struct ResidualSource {
  using C = compute_t<T>;
  Dropout<C> dropout;
  const C* bias;
  Array2<const T> x;
  Array2<const T> residual;
  SPARSEGRAD_HOST_DEVICE C operator()(index_t i, index_t j) const {
    return (x(i, j) + bias[j]) * multiplier(dropout, i, j) + residual(i, j);
  }
};

/// g + extra, where there is an extra.
template <class T>
struct GradientSum {
  using C = compute_t<T>;
  Array2<const T> g;
  Array2<const T> extra;
  SPARSEGRAD_HOST_DEVICE C operator()(index_t i, index_t j) const {
    const C sum = g(i, j);
    return extra.data == nullptr ? sum : sum + extra(i, j);
  }
};

/// dz = rstd (dy gamma - mean(dy gamma) - xhat mean(dy gamma xhat)), which may be written where dy is read.
template <class T>
struct NormalizeRowsBackward {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  struct Shared {
    BlockSum<threads> sum;
    BlockSum<threads> slope;
  };

  LayerNorm<C> norm;
  index_t cols;
  Array2<const T> xhat;
  const C* rstd;
  GradientSum<T> dy;
  Array2<T> dz;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      double sum = 0;
      double slope = 0;
      for (index_t j = thread; j < cols; j += threads) {
        const auto x = static_cast<double>(dy(row, j) * norm.gamma[j]);
        sum += x;
        slope += x * static_cast<double>(xhat(row, j));
      }
      shared.sum.put(thread, sum);
      shared.slope.put(thread, slope);
    } else if constexpr (P == 1) {
      shared.sum.gather(thread);
      shared.slope.gather(thread);
    } else {
      const double n = static_cast<double>(cols);
      const C mean = static_cast<C>(shared.sum.total() / n);
      const C slope = static_cast<C>(shared.slope.total() / n);
      for (index_t j = thread; j < cols; j += threads)
        dz(row, j) = static_cast<T>(rstd[row] * (dy(row, j) * norm.gamma[j] - mean - xhat(row, j) * slope));
    }
  }
};

/// dy xhat, whose column sums are the gradient of gamma.
template <class T>
struct ProductEntry {
  GradientSum<T> dy;
  Array2<const T> xhat;
  SPARSEGRAD_HOST_DEVICE double operator()(index_t i, index_t j) const {
    return static_cast<double>(dy(i, j)) * static_cast<double>(xhat(i, j));
  }
};

/// LayerNorm's backward of all rows from dy = g + extra (which may be empty): adds to d_gamma and d_beta unless they are
/// null, g <- dz.
template <class System, class T>
void norm_backward(typename System::Context& ctx, const LayerNorm<compute_t<T>>& norm,
                   MatrixView<const T> xhat, const compute_t<T>* rstd, MatrixView<T> g,
                   MatrixView<const T> extra) {
  if (g.empty()) return;
  const GradientSum<T> dy{MatrixView<const T>(g), extra};
  if (norm.d_gamma != nullptr) {
    add_sums_by_column<System>(ctx, ProductEntry<T>{dy, xhat}, g.rows, g.cols, norm.d_gamma);
    add_sums_by_column<System>(ctx, dy, g.rows, g.cols, norm.d_beta);
  }
  System::launch(ctx, g.rows, NormalizeRowsBackward<T>{norm, g.cols, xhat, rstd, dy, g});
}

}  // namespace sparsegrad::finetune::device
