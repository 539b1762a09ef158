#pragma once

#include <cmath>

#include "../layer_norm.hpp"
#include "mask.hpp"
#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Calls put(at, xhat, gamma * xhat + beta) over the row z, which put may overwrite where it is at. Returns
/// 1 / sqrt(var + eps).
template <class C, class Put>
inline C normalize_row(const LayerNorm<C>& norm, const C* z, index_t n, Put put) {
  const C inverse_n = C(1) / static_cast<C>(n);
  const C mean = sum_of<C>(n, [=](auto at) { return at.load(z); }) * inverse_n;
  const auto square = [=](auto at) {
    const auto difference = at.load(z) - mean;
    return difference * difference;
  };
  const C var = sum_of<C>(n, square) * inverse_n;
  const C rstd = C(1) / std::sqrt(var + norm.eps);
  const C* gamma = norm.gamma;
  const C* beta = norm.beta;
  for_packs<C>(n, [=](auto at) {
    const auto xhat = (at.load(z) - mean) * rstd;
    put(at, xhat, at.load(gamma) * xhat + at.load(beta));
  });
  return rstd;
}

/// dz from g = dy, in place of it; sums[0, n) += g xhat, sums[n, 2n) += g.
template <class T, class C>
inline void normalize_row_backward(const LayerNorm<C>& norm, C* g, const T* xhat, C rstd, C* sums,
                                   index_t n) {
  const C* gamma = norm.gamma;
  C* sums_beta = sums + n;
  for_packs<C>(n, [=](auto at) {
    const auto dy = at.load(g);
    at.store(sums, at.load(sums) + dy * at.load(xhat));
    at.store(sums_beta, at.load(sums_beta) + dy);
    at.store(g, dy * at.load(gamma));
  });
  const C inverse_n = C(1) / static_cast<C>(n);
  const C mean = sum_of<C>(n, [=](auto at) { return at.load(g); }) * inverse_n;
  const C slope = sum_of<C>(n, [=](auto at) { return at.load(g) * at.load(xhat); }) * inverse_n;
  for_packs<C>(n, [=](auto at) { at.store(g, rstd * (at.load(g) - mean - at.load(xhat) * slope)); });
}

/// The end of a sub-layer: y = LayerNorm(dropout(x + bias) + residual).
/// `x` [tokens, n] becomes xhat, which backward needs together with `rstd` [tokens].
template <class T, class Context>
void residual_norm_forward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                           const Dropout<compute_t<T>>& dropout, const compute_t<T>* bias, MatrixView<T> x,
                           MatrixView<const T> residual, compute_t<T>* rstd, MatrixView<T> y) {
  using C = compute_t<T>;
  const index_t n = x.cols;
  for_work_rows<T>(ctx, x, [&](index_t i, C* z) {
    T* xi = x.row(i);
    T* yi = y.row(i);
    const T* r = residual.row(i);
    if (dropout.on()) {
      const auto mask = mask_row(dropout, i);
      for_packs<C>(n, [=](auto at) { at.store(z, (at.load(xi) + at.load(bias)) * mask(at) + at.load(r)); });
    } else {
      for_packs<C>(n, [=](auto at) { at.store(z, at.load(xi) + at.load(bias) + at.load(r)); });
    }
    rstd[i] = normalize_row(norm, z, n, [=](auto at, auto xhat, auto value) {
      at.store(xi, xhat);
      at.store(yi, value);
    });
  });
}

/// From dy = g + extra (extra may be empty): g <- dz, which is also the residual's gradient, and dx = mask * dz, the
/// gradient of the sub-layer's product; dx may be left empty with dropout off, then it is g itself. d_gamma, d_beta
/// and d_bias are added to.
template <class T, class Context>
void residual_norm_backward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                            const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                            const compute_t<T>* rstd, MatrixView<T> g, MatrixView<const T> extra,
                            MatrixView<T> dx, compute_t<T>* d_bias) {
  using C = compute_t<T>;
  const index_t n = g.cols;
  C* const targets[3] = {norm.d_gamma, norm.d_beta, d_bias};
  for_rows_with_sums<C, 3>(ctx, g.rows, n, work_row_size<T>(n), targets, [&](index_t i, C* sums) {
    T* gi = g.row(i);
    C* z = work_row<T>(gi, sums + 3 * n);
    if (!extra.empty()) {
      const T* e = extra.row(i);
      for_packs<C>(n, [=](auto at) { at.store(z, at.load(gi) + at.load(e)); });
    } else if constexpr (is_low_precision<T>) {
      for_packs<C>(n, [=](auto at) { at.store(z, at.load(gi)); });
    }
    normalize_row_backward<T>(norm, z, xhat.row(i), rstd[i], sums, n);
    C* sums_bias = sums + 2 * n;
    // z is gi, unless T has 16 bits.
    const auto put_dz = [=](auto at, auto dz) {
      if constexpr (is_low_precision<T>) at.store(gi, dz);
    };
    if (dropout.on()) {
      T* d = dx.row(i);
      const auto mask = mask_row(dropout, i);
      for_packs<C>(n, [=](auto at) {
        const auto dz = at.load(z);
        const auto kept = dz * mask(at);
        put_dz(at, dz);
        at.store(d, kept);
        at.store(sums_bias, at.load(sums_bias) + kept);
      });
    } else {
      for_packs<C>(n, [=](auto at) {
        const auto dz = at.load(z);
        put_dz(at, dz);
        at.store(sums_bias, at.load(sums_bias) + dz);
      });
    }
  });
}

}  // namespace sparsegrad::finetune
