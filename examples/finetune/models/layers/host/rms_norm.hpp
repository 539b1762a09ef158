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
    const auto add = [&](auto sum) {
      return sum_of<C>(n, [=](auto at) {
        at.store(xi, sum(at));
        // As it is stored: a pass that comes again has nothing else.
        const auto value = at.load(xi);
        return value * value;
      });
    };
    const T* r = residual.row(i);
    C squares;
    if (residual.empty()) {
      squares = sum_of<C>(n, [=](auto at) { return at.load(xi) * at.load(xi); });
    } else if (bias == nullptr) {
      squares = add([=](auto at) { return at.load(xi) + at.load(r); });
    } else {
      squares = add([=](auto at) { return at.load(xi) + at.load(bias) + at.load(r); });
    }
    rstd[i] = C(1) / std::sqrt(squares / static_cast<C>(n) + norm.eps);
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
  const C* gamma = norm.gamma;
  // dy_of(at) is called once for each place.
  const auto row = [&](index_t i, auto dy_of) {
    const T* xi = x.row(i);
    const T* di = dy.row(i);
    T* gi = g.row(i);
    const C r = rstd[i];
    const C slope = sum_of<C>(n, [=](auto at) { return dy_of(at) * at.load(gamma) * at.load(xi); }) *
                    (r * r) / static_cast<C>(n);
    const C scale = factor * r;
    const auto dx = [=](auto at) { return scale * (at.load(di) * at.load(gamma) - at.load(xi) * slope); };
    if (overwrite) {
      for_packs<C>(n, [=](auto at) { at.store(gi, dx(at)); });
    } else {
      for_packs<C>(n, [=](auto at) { at.store(gi, at.load(gi) + dx(at)); });
    }
  };
  if (norm.d_gamma == nullptr) {
    return for_rows(ctx, x.rows,
                    [&](index_t i) { row(i, [di = dy.row(i)](auto at) { return at.load(di); }); });
  }
  C* const targets[1] = {norm.d_gamma};
  for_rows_with_sums<C, 1>(ctx, x.rows, n, 0, targets, [&](index_t i, C* sums) {
    row(i, [=, di = dy.row(i), xi = x.row(i), scale = factor * rstd[i]](auto at) {
      const auto d = at.load(di);
      at.store(sums, at.load(sums) + d * (at.load(xi) * scale));
      return d;
    });
  });
}

}  // namespace sparsegrad::finetune
