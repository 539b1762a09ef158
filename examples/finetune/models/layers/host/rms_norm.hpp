#pragma once

#include <cmath>

#include <sparsegrad/core/view.hpp>

#include "../rms_norm.hpp"
#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// y = gamma x rstd for rstd that is known.
template <class T>
inline void rms_norm_row(const RmsNorm<compute_t<T>>& norm, const T* x, compute_t<T> rstd, index_t n, T* y) {
  const compute_t<T>* gamma = norm.gamma;
  for_packs<compute_t<T>>(n, [=](auto at) { at.store(y, at.load(gamma) * (at.load(x) * rstd)); });
}

template <class T>
inline compute_t<T> rms_of_row(const RmsNorm<compute_t<T>>& norm, const T* x, index_t n) {
  using C = compute_t<T>;
  const C squares = sum_of<C>(n, [=](auto at) { return at.load(x) * at.load(x); });
  return C(1) / std::sqrt(squares / static_cast<C>(n) + norm.eps);
}

/// x += residual + bias (each may be left out: empty, null); then y = norm(x), and `rstd` [tokens] what backward needs
/// beside x.
template <class T, class Context>
void add_rms_norm_forward(Context& ctx, const RmsNorm<compute_t<T>>& norm, const compute_t<T>* bias,
                          MatrixView<const T> residual, MatrixView<T> x, compute_t<T>* rstd,
                          MatrixView<T> y) {
  using C = compute_t<T>;
  const index_t n = x.cols;
  for_rows(ctx, x.rows, [&](index_t i) {
    T* xi = x.row(i);
    if (!residual.empty()) {
      const T* r = residual.row(i);
      if (bias != nullptr) {
        for_packs<C>(n, [=](auto at) { at.store(xi, at.load(xi) + at.load(bias) + at.load(r)); });
      } else {
        for_packs<C>(n, [=](auto at) { at.store(xi, at.load(xi) + at.load(r)); });
      }
    }
    rstd[i] = rms_of_row<T>(norm, xi, n);
    rms_norm_row<T>(norm, xi, rstd[i], n, y.row(i));
  });
}

/// y = norm(x) again, for backward.
template <class T, class Context>
void rms_norm_again(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                    const compute_t<T>* rstd, MatrixView<T> y) {
  for_rows(ctx, x.rows, [&](index_t i) { rms_norm_row<T>(norm, x.row(i), rstd[i], x.cols, y.row(i)); });
}

/// g += factor dx, where dx is the gradient of norm's x from dy = that of its result; d_gamma += factor times its
/// gradient. `overwrite`: g = factor dx.
template <class T, class Context>
void rms_norm_backward(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                       const compute_t<T>* rstd, MatrixView<const T> dy, compute_t<T> factor, bool overwrite,
                       MatrixView<T> g) {
  using C = compute_t<T>;
  const index_t n = x.cols;
  const auto row = [&](index_t i) {
    const T* xi = x.row(i);
    const T* di = dy.row(i);
    T* gi = g.row(i);
    const C* gamma = norm.gamma;
    const C r = rstd[i];
    const C slope = sum_of<C>(n, [=](auto at) { return at.load(di) * at.load(gamma) * at.load(xi); }) *
                    (r * r) / static_cast<C>(n);
    const C scale = factor * r;
    if (overwrite) {
      for_packs<C>(
          n, [=](auto at) { at.store(gi, scale * (at.load(di) * at.load(gamma) - at.load(xi) * slope)); });
    } else {
      for_packs<C>(n, [=](auto at) {
        at.store(gi, at.load(gi) + scale * (at.load(di) * at.load(gamma) - at.load(xi) * slope));
      });
    }
  };
  if (norm.d_gamma == nullptr) return for_rows(ctx, x.rows, row);
  C* const targets[1] = {norm.d_gamma};
  for_rows_with_sums<C, 1>(ctx, x.rows, n, 0, targets, [&](index_t i, C* sums) {
    const T* xi = x.row(i);
    const T* di = dy.row(i);
    const C scale = factor * rstd[i];
    for_packs<C>(n, [=](auto at) { at.store(sums, at.load(sums) + at.load(di) * (at.load(xi) * scale)); });
    row(i);
  });
}

}  // namespace sparsegrad::finetune
