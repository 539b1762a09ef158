#pragma once

#include <sparsegrad/core/host_device.hpp>

namespace sparsegrad::finetune::device {

/// Sum over a block's threads in three phases of a kernel: every thread `put`s its part, then all `gather`, then all
/// may ask for the `total`. The order of the additions is fixed.
template <int Threads, class S = double>
struct BlockSum {
  static constexpr int groups = 8;
  static constexpr int members = Threads / groups;
  S part[Threads];
  S group[groups];

  SPARSEGRAD_HOST_DEVICE void put(int thread, S x) { part[thread] = x; }
  SPARSEGRAD_HOST_DEVICE void gather(int thread) {
    if (thread >= groups) return;
    S sum = 0;
    for (int e = 0; e < members; ++e)
      sum += part[thread * members + e];
    group[thread] = sum;
  }
  SPARSEGRAD_HOST_DEVICE S total() const {
    S sum = 0;
    for (int e = 0; e < groups; ++e)
      sum += group[e];
    return sum;
  }
};

}  // namespace sparsegrad::finetune::device
