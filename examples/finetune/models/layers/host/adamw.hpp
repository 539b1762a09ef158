#pragma once

#include <algorithm>

#include "../adamw_coefficients.hpp"

namespace sparsegrad::glue {

/// AdamW's update of n elements (see adamw.hpp).
template <class T>
void adamw_update(const AdamWCoefficients<T>& c, index_t n, T* __restrict w, const T* __restrict g,
                  T* __restrict m, T* __restrict v) {
  for (index_t i = 0; i < n; ++i)
    c.update(w[i], g[i], m[i], v[i]);
}

/// Square sum in double, in an order that depends on n alone.
template <class T>
double sum_of_squares(const T* __restrict x, index_t n) {
  constexpr int lanes = 8;
  double sums[lanes] = {};
  for (index_t i = 0; i < n; i += lanes) {
    const index_t count = std::min<index_t>(lanes, n - i);
    for (index_t l = 0; l < count; ++l)
      sums[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  double sum = 0;
  for (const double lane : sums)
    sum += lane;
  return sum;
}

}  // namespace sparsegrad::glue
