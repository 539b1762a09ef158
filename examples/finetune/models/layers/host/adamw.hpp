#pragma once

#include <algorithm>

#include "../adamw_coefficients.hpp"
#include "packs.hpp"

namespace sparsegrad::finetune {

/// The rounded copies of n weights from `first` on, where there are some.
template <class T>
void put_rounded([[maybe_unused]] const AdamWPiece<T>& p, [[maybe_unused]] index_t first,
                 [[maybe_unused]] index_t n) {
  if constexpr (is_low_precision<T>) {
    if (p.rounded == nullptr) return;
    using C = compute_t<T>;
    const C* weight = p.weight + first;
    T* rounded = p.rounded + first;
    for_packs<C>(n, [=](auto at) { at.store(rounded, at.load(weight)); });
  }
}

/// AdamW's update of n elements (see adamw.hpp).
template <class T>
void adamw_update(const AdamWCoefficients<T>& c, index_t n, T* __restrict w, const T* __restrict g,
                  T* __restrict m, T* __restrict v) {
  for (index_t i = 0; i < n; ++i)
    c.update(w[i], g[i], m[i], v[i]);
}

/// Elements that are updated at a time: about a row of an embedding table, and so few that what follows the update finds
/// them in the cache.
inline constexpr index_t adamw_block = 256;

/// Whether all numbers are 0.
template <class T>
bool all_zeros(const T* x, index_t n) {
  constexpr index_t width = Simd<T>::width;
  Pack<T> nonzero = {};
  index_t j = 0;
  for (; j + width <= n; j += width) {
    const Pack<T> v = load_pack<T>(x + j);
    nonzero = v == Pack<T>{} ? nonzero : Pack<T>{} + T(1);
  }
  bool all = true;
  for (int l = 0; l < width; ++l)
    all = all && nonzero[l] == T(0);
  for (; j < n; ++j)
    all = all && x[j] == T(0);
  return all;
}

/// AdamW's update of a piece; then its gradient = 0 if `clear`.
///
/// A block whose moments and gradient are 0 keeps them, and its weights change by their decay alone: rows of an embedding
/// table of which no batch had the token so far cost a look at the gradient.
template <class T>
void adamw_update(const AdamWPiece<T>& p, bool clear) {
  using C = compute_t<T>;
  const AdamWCoefficients<C>& c = p.coefficients;
  // The update 0 / (0 + eps) of such a block is 0.
  const bool may_rest = p.states != nullptr && c.eps > C(0) && c.grad_scale * C(0) == C(0);
  for (index_t first = 0; first < p.count; first += adamw_block) {
    const index_t n = std::min(adamw_block, p.count - first);
    C* const weight = p.weight + first;
    C* const gradient = p.gradient + first;
    if (may_rest) {
      MomentsState& state = p.states[first / adamw_block];
      if (state == MomentsState::unknown) {
        const bool zeros = all_zeros(p.first + first, n) && all_zeros(p.second + first, n);
        state = zeros ? MomentsState::zeros : MomentsState::others;
      }
      if (state == MomentsState::zeros) {
        if (all_zeros(gradient, n)) {
          if (c.keep == C(1)) continue;
          for_packs<C>(n, [=, keep = c.keep](auto at) { at.store(weight, at.load(weight) * keep); });
          put_rounded(p, first, n);
          continue;
        }
        state = MomentsState::others;
      }
    }
    adamw_update<C>(c, n, weight, gradient, p.first + first, p.second + first);
    put_rounded(p, first, n);
    if (clear) std::fill_n(gradient, n, C(0));
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
