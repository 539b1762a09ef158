// RMSNorm's kernels: a block takes a row.
#pragma once

#include <cmath>

#include "../rms_norm.hpp"
#include "block_sum.cuh"
#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// x += residual + bias (each may be left out), then y = norm(x) and rstd. What a thread has written it reads again.
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

/// g += factor rstd (dy gamma - x slope) with slope = rstd^2 mean(dy gamma x); `overwrite`: g = that.
template <class T, int N>
struct RmsNormRowsBackward {
  using C = compute_t<T>;
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  struct Shared {
    BlockSum<threads, C> slope;
  };

  const C* gamma;
  Array2<const T> x;
  const C* rstd;
  Array2<const T> dy;
  C factor;
  bool overwrite;
  index_t cols;
  Array2<T> g;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      C slope = 0;
      for (index_t j = thread * N; j < cols; j += threads * N) {
        const auto v = load_pack<T, N>(&x(row, j));
        const auto d = load_pack<T, N>(&dy(row, j));
        const auto w = load_pack<C, N>(gamma + j);
        for (int i = 0; i < N; ++i)
          slope += d.x[i] * w.x[i] * v.x[i];
      }
      shared.slope.put(thread, slope);
    } else if constexpr (P == 1) {
      shared.slope.gather(thread);
    } else {
      const C r = rstd[row];
      const C slope = shared.slope.total() * (r * r) / static_cast<C>(cols);
      const C scale = factor * r;
      for (index_t j = thread * N; j < cols; j += threads * N) {
        const auto v = load_pack<T, N>(&x(row, j));
        const auto d = load_pack<T, N>(&dy(row, j));
        const auto w = load_pack<C, N>(gamma + j);
        Pack<C, N> sum{};
        if (!overwrite) sum = load_pack<T, N>(&g(row, j));
        for (int i = 0; i < N; ++i)
          sum.x[i] += scale * (d.x[i] * w.x[i] - v.x[i] * slope);
        store_pack<T, N>(&g(row, j), sum);
      }
    }
  }
};

/// factor dy x rstd, whose column sums are the gradient of gamma.
template <class T>
struct RmsGammaEntry {
  using C = compute_t<T>;
  Array2<const T> x;
  const C* rstd;
  Array2<const T> dy;
  C factor;
  SPARSEGRAD_HOST_DEVICE C operator()(index_t i, index_t j) const {
    return dy(i, j) * (x(i, j) * (factor * rstd[i]));
  }
};

}  // namespace sparsegrad::finetune::device
