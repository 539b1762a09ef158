#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// losses[row] = -log softmax(row)[target] and, where it is wanted, the row's gradient softmax - one at the target. A
/// block takes a row: it reads it once for the largest logit and the sum of the exponentials together, and once for the
/// gradient, which may be written in place.
template <class T, int N>
struct CrossEntropyRows {
  using C = compute_t<T>;
  static constexpr int threads = 512;
  static constexpr int phases = 3;
  static constexpr int groups = 16;
  static constexpr C least = std::numeric_limits<C>::lowest();  // -Inf - least is -Inf, and no NaN
  struct Shared {
    C most[threads], sum[threads];
    C group_most[groups], group_sum[groups];
    C at_target;
  };

  index_t cols;
  Array2<C> logits;
  const std::int32_t* targets;
  double* losses;
  Array2<T> d_logits;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    const auto target = static_cast<index_t>(targets[row]);
    if constexpr (P == 0) {
      C most = least;
      C sum = 0;
      for (index_t j = thread * N; j < cols; j += threads * N) {
        const auto v = load_pack<C, N>(&logits(row, j));
        C top = most;
        for (int i = 0; i < N; ++i)
          top = v.x[i] > top ? v.x[i] : top;
        if (top > most) {
          sum *= std::exp(most - top);
          most = top;
        }
        for (int i = 0; i < N; ++i)
          sum += std::exp(v.x[i] - most);
      }
      shared.most[thread] = most;
      shared.sum[thread] = sum;
      if (thread == 0) shared.at_target = logits(row, target);
    } else if constexpr (P == 1) {
      if (thread >= groups) return;
      constexpr int members = threads / groups;
      join<members>(shared.most + thread * members, shared.sum + thread * members, shared.group_most[thread],
                    shared.group_sum[thread]);
    } else {
      C most;
      C sum;
      join<groups>(shared.group_most, shared.group_sum, most, sum);
      if (thread == 0) {
        losses[row] = static_cast<double>(most) - static_cast<double>(shared.at_target) +
                      std::log(static_cast<double>(sum));
      }
      if (d_logits.data == nullptr) return;
      const C factor = C(1) / sum;
      for (index_t j = thread * N; j < cols; j += threads * N) {
        auto v = load_pack<C, N>(&logits(row, j));
        for (int i = 0; i < N; ++i)
          v.x[i] = std::exp(v.x[i] - most) * factor - (j + i == target ? C(1) : C(0));
        store_pack<T, N>(&d_logits(row, j), v);
      }
    }
  }

 private:
  /// One largest number and sum from those of several parts.
  template <int Count>
  SPARSEGRAD_HOST_DEVICE static void join(const C* mosts, const C* sums, C& most, C& sum) {
    most = mosts[0];
    for (int e = 1; e < Count; ++e)
      most = mosts[e] > most ? mosts[e] : most;
    sum = 0;
    for (int e = 0; e < Count; ++e)
      sum += sums[e] * std::exp(mosts[e] - most);
  }
};

}  // namespace sparsegrad::finetune::device
