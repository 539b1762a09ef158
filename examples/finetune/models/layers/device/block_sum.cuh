// What a block's threads sum together, in a fixed order, over phases of a kernel: every thread `put`s its part,
// then all `gather`, then all may ask for the `total`.
#pragma once

#include <sparsegrad/core/host_device.hpp>

namespace sparsegrad::finetune::device {

/// A sum over the threads for each of some rows.
template <int Threads, class S, int Rows = 1>
struct BlockSum {
  static constexpr int groups = Rows == 1 ? 8 : 4;
  static constexpr int members = Threads / groups;
  // A group has every groups-th thread, and rows are longer than they need be: threads that gather read different
  // banks.
  S part[Rows][Threads + groups];
  alignas(16) S group[Rows][groups];

  SPARSEGRAD_HOST_DEVICE void put(int thread, S x, int row = 0) { part[row][thread] = x; }
  SPARSEGRAD_HOST_DEVICE void gather(int thread) {
    for (int task = thread; task < Rows * groups; task += Threads) {
      const S* const first = &part[task / groups][task % groups];
      S sum = 0;
      for (int e = 0; e < members; ++e)
        sum += first[e * groups];
      group[task / groups][task % groups] = sum;
    }
  }
  SPARSEGRAD_HOST_DEVICE S total(int row = 0) const {
    S sum = 0;
    for (int e = 0; e < groups; ++e)
      sum += group[row][e];
    return sum;
  }
};

/// Mean of some numbers and the sum of their squared distances from it.
template <class S>
struct Moments {
  S count, mean, squares;
};

/// The moments of all numbers that a block's threads have, each `put` by its thread with its own mean: the
/// distances are small then, and nothing cancels.
template <int Threads, class S>
struct BlockMoments {
  static constexpr int groups = 8;
  S count[Threads], mean[Threads], squares[Threads];
  S group_count[groups], group_mean[groups], group_squares[groups];

  SPARSEGRAD_HOST_DEVICE void put(int thread, const Moments<S>& m) {
    count[thread] = m.count;
    mean[thread] = m.mean;
    squares[thread] = m.squares;
  }
  SPARSEGRAD_HOST_DEVICE void gather(int thread) {
    if (thread >= groups) return;
    const Moments<S> m = join<Threads / groups, groups>(count + thread, mean + thread, squares + thread);
    group_count[thread] = m.count;
    group_mean[thread] = m.mean;
    group_squares[thread] = m.squares;
  }
  SPARSEGRAD_HOST_DEVICE Moments<S> total() const {
    return join<groups, 1>(group_count, group_mean, group_squares);
  }

 private:
  template <int Parts, int Step>
  SPARSEGRAD_HOST_DEVICE static Moments<S> join(const S* counts, const S* means, const S* squares) {
    S count = 0;
    S sum = 0;
    for (int e = 0; e < Parts; ++e) {
      count += counts[e * Step];
      sum += counts[e * Step] * means[e * Step];
    }
    const S mean = count > 0 ? sum / count : S(0);
    S all = 0;
    for (int e = 0; e < Parts; ++e) {
      const S distance = means[e * Step] - mean;
      all += squares[e * Step] + counts[e * Step] * distance * distance;
    }
    return {count, mean, all};
  }
};

}  // namespace sparsegrad::finetune::device
