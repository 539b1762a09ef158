#pragma once

#include <cmath>

#include "../layer_norm.hpp"
#include "mask.hpp"
#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::glue {

/// z <- xhat; y = gamma * xhat + beta. Returns 1 / sqrt(var + eps).
template <class T>
inline T normalize_row(const LayerNorm<T>& norm, T* __restrict z, T* __restrict y, index_t n) {
  const T inverse_n = T(1) / static_cast<T>(n);
  const T mean = sum_of<T>(n, [z](index_t j) { return z[j]; }) * inverse_n;
  const T var = sum_of<T>(n, [z, mean](index_t j) { return (z[j] - mean) * (z[j] - mean); }) * inverse_n;
  const T rstd = T(1) / std::sqrt(var + norm.eps);
  const T* __restrict gamma = norm.gamma;
  const T* __restrict beta = norm.beta;
  for (index_t j = 0; j < n; ++j) {
    const T xhat = (z[j] - mean) * rstd;
    z[j] = xhat;
    y[j] = gamma[j] * xhat + beta[j];
  }
  return rstd;
}

/// dz from g = dy, in place of it; sums[0, n) += g xhat, sums[n, 2n) += g.
template <class T>
inline void normalize_row_backward(const LayerNorm<T>& norm, T* __restrict g, const T* __restrict xhat,
                                   T rstd, T* __restrict sums, index_t n) {
  const T* __restrict gamma = norm.gamma;
  T* __restrict sums_beta = sums + n;
  for (index_t j = 0; j < n; ++j) {
    sums[j] += g[j] * xhat[j];
    sums_beta[j] += g[j];
    g[j] *= gamma[j];
  }
  const T inverse_n = T(1) / static_cast<T>(n);
  const T mean = sum_of<T>(n, [g](index_t j) { return g[j]; }) * inverse_n;
  const T slope = sum_of<T>(n, [g, xhat](index_t j) { return g[j] * xhat[j]; }) * inverse_n;
  for (index_t j = 0; j < n; ++j)
    g[j] = rstd * (g[j] - mean - xhat[j] * slope);
}

/// The end of a sub-layer: y = LayerNorm(dropout(x + bias) + residual).
/// `x` [tokens, n] becomes xhat, which backward needs together with `rstd` [tokens].
template <class T, class Context>
void residual_norm_forward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout, const T* bias,
                           MatrixView<T> x, MatrixView<const T> residual, T* rstd, MatrixView<T> y) {
  const index_t n = x.cols;
  for_rows(ctx, x.rows, [&](index_t i) {
    T* __restrict z = x.row(i);
    const T* __restrict r = residual.row(i);
    const T* __restrict b = bias;
    if (dropout.on()) {
      const auto mask = mask_row(dropout, i);
      for_packs<T>(n, [=](auto at) { at.store(z, (at.load(z) + at.load(b)) * mask(at) + at.load(r)); });
    } else {
      for (index_t j = 0; j < n; ++j)
        z[j] = z[j] + b[j] + r[j];
    }
    rstd[i] = normalize_row(norm, z, y.row(i), n);
  });
}

/// From dy = g + extra (extra may be empty): g <- dz, which is also the residual's gradient, and dx = mask * dz, the
/// gradient of the sub-layer's product; dx may be left empty with dropout off, then it is g itself. d_gamma, d_beta
/// and d_bias are added to.
template <class T, class Context>
void residual_norm_backward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout,
                            MatrixView<const T> xhat, const T* rstd, MatrixView<T> g,
                            MatrixView<const T> extra, MatrixView<T> dx, T* d_bias) {
  const index_t n = g.cols;
  T* const targets[3] = {norm.d_gamma, norm.d_beta, d_bias};
  for_rows_with_sums<T, 3>(ctx, g.rows, n, targets, [&](index_t i, T* sums) {
    T* __restrict gi = g.row(i);
    if (!extra.empty()) {
      const T* __restrict e = extra.row(i);
      for (index_t j = 0; j < n; ++j)
        gi[j] += e[j];
    }
    normalize_row_backward(norm, gi, xhat.row(i), rstd[i], sums, n);
    T* __restrict sums_bias = sums + 2 * n;
    if (dropout.on()) {
      T* __restrict d = dx.row(i);
      const auto mask = mask_row(dropout, i);
      for_packs<T>(n, [=](auto at) {
        const auto kept = at.load(gi) * mask(at);
        at.store(d, kept);
        at.store(sums_bias, at.load(sums_bias) + kept);
      });
    } else {
      for (index_t j = 0; j < n; ++j)
        sums_bias[j] += gi[j];
    }
  });
}

}  // namespace sparsegrad::glue
