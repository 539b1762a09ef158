#pragma once

#include <cmath>

#include "../layer_norm.hpp"
#include "mask.hpp"
#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Normalises the row z(at), which is kept in `row`. Calls put(at, xhat, gamma * xhat + beta), which may overwrite `row`
/// where it is at. Returns 1 / sqrt(var + eps).
template <class C, class Z, class Put>
inline C normalize_row(const LayerNorm<C>& norm, index_t n, Z z, C* row, Put put) {
  const C inverse_n = C(1) / static_cast<C>(n);
  const C mean = sum_of<C>(n,
                           [=](auto at) {
                             const auto value = z(at);
                             at.store(row, value);
                             return value;
                           }) *
                 inverse_n;
  const auto square = [=](auto at) {
    const auto difference = at.load(row) - mean;
    return difference * difference;
  };
  const C var = sum_of<C>(n, square) * inverse_n;
  const C rstd = C(1) / std::sqrt(var + norm.eps);
  const C* gamma = norm.gamma;
  const C* beta = norm.beta;
  for_packs<C>(n, [=](auto at) {
    const auto xhat = (at.load(row) - mean) * rstd;
    put(at, xhat, at.load(gamma) * xhat + at.load(beta));
  });
  return rstd;
}

/// From dy(at), the gradient of a row's result: put(at, dz), the one before; sums[0, n) += dy xhat, sums[n, 2n) += dy.
/// `row` is memory of n elements, which put may overwrite where it is at.
template <class T, class C, class Dy, class Put>
inline void normalize_row_backward(const LayerNorm<C>& norm, index_t n, Dy dy, const T* xhat, C rstd, C* sums,
                                   C* row, Put put) {
  const C* gamma = norm.gamma;
  C* sums_beta = sums + n;
  const auto dots = sums_of<C, 2>(n, [=](auto at) {
    const auto g = dy(at);
    const auto x = at.load(xhat);
    at.store(sums, at.load(sums) + g * x);
    at.store(sums_beta, at.load(sums_beta) + g);
    const auto d_xhat = g * at.load(gamma);
    at.store(row, d_xhat);
    return terms(d_xhat, d_xhat * x);
  });
  const C mean = dots.of[0] / static_cast<C>(n);
  const C slope = dots.of[1] / static_cast<C>(n);
  for_packs<C>(n, [=](auto at) { put(at, rstd * (at.load(row) - mean - at.load(xhat) * slope)); });
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
    const auto put = [=](auto at, auto xhat, auto value) {
      at.store(xi, xhat);
      at.store(yi, value);
    };
    if (dropout.on()) {
      const auto sum = [=, mask = mask_row(dropout, i)](auto at) {
        return (at.load(xi) + at.load(bias)) * mask(at) + at.load(r);
      };
      rstd[i] = normalize_row(norm, n, sum, z, put);
    } else {
      const auto sum = [=](auto at) { return at.load(xi) + at.load(bias) + at.load(r); };
      rstd[i] = normalize_row(norm, n, sum, z, put);
    }
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
    C* sums_bias = sums + 2 * n;
    const auto from = [&](auto dy) {
      if (dropout.on()) {
        T* d = dx.row(i);
        normalize_row_backward<T>(norm, n, dy, xhat.row(i), rstd[i], sums, z,
                                  [=, mask = mask_row(dropout, i)](auto at, auto dz) {
                                    const auto kept = dz * mask(at);
                                    at.store(gi, dz);
                                    at.store(d, kept);
                                    at.store(sums_bias, at.load(sums_bias) + kept);
                                  });
      } else {
        normalize_row_backward<T>(norm, n, dy, xhat.row(i), rstd[i], sums, z, [=](auto at, auto dz) {
          at.store(gi, dz);
          at.store(sums_bias, at.load(sums_bias) + dz);
        });
      }
    };
    if (extra.empty()) {
      from([=](auto at) { return at.load(gi); });
    } else {
      from([=, e = extra.row(i)](auto at) { return at.load(gi) + at.load(e); });
    }
  });
}

}  // namespace sparsegrad::finetune
