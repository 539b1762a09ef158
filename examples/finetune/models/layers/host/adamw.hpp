#pragma once

#include <algorithm>

#include "../adamw_coefficients.hpp"
#include "packs.hpp"

namespace sparsegrad::finetune {

/// AdamW's update of n elements (see adamw.hpp).
template <class T>
void adamw_update(const AdamWCoefficients<T>& c, index_t n, T* __restrict w, const T* __restrict g,
                  T* __restrict m, T* __restrict v) {
  for (index_t i = 0; i < n; ++i)
    c.update(w[i], g[i], m[i], v[i]);
}

/// AdamW's update of a piece; then its gradient = 0 if `clear`.
template <class T>
void adamw_update(const AdamWPiece<T>& p, bool clear) {
  using C = compute_t<T>;
  // Few enough at a time that what follows the update finds them in the cache.
  constexpr index_t block = 1024;
  for (index_t first = 0; first < p.count; first += block) {
    const index_t n = std::min(block, p.count - first);
    const C* weight = p.weight + first;
    adamw_update<C>(p.coefficients, n, p.weight + first, p.gradient + first, p.first + first,
                    p.second + first);
    if constexpr (is_low_precision<T>) {
      if (p.rounded != nullptr) {
        T* rounded = p.rounded + first;
        for_packs<C>(n, [=](auto at) { at.store(rounded, at.load(weight)); });
      }
    }
    if (clear) std::fill_n(p.gradient + first, n, C(0));
  }
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

}  // namespace sparsegrad::finetune
