// BlockSums: what the threads of a block that come before each one have.
#pragma once

#include "block_kernel.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// Sums over a block's threads: what the threads before each one have, in three phases after sum[]
/// is filled.
template <class Sum>
struct BlockSums {
  static constexpr int threads = 256;
  static constexpr int groups = 16;
  static constexpr int each = threads / groups;
  Sum sum[threads];   ///< a thread's own; from phase 3 on, of all before it
  Sum group[groups];  ///< of a group's threads; from phase 2 on, of all before it

  SPARSEGRAD_HOST_DEVICE void add_group(int thread) {
    if (thread >= groups) return;
    Sum all = 0;
    for (int t = 0; t < each; ++t)
      all += sum[thread * each + t];
    group[thread] = all;
  }
  /// Thread 0 alone; returns `before` and the sum of all.
  SPARSEGRAD_HOST_DEVICE Sum scan_groups(Sum before) {
    for (int g = 0; g < groups; ++g) {
      const Sum own = group[g];
      group[g] = before;
      before += own;
    }
    return before;
  }
  SPARSEGRAD_HOST_DEVICE void scan_threads(int thread) {
    if (thread >= groups) return;
    Sum before = group[thread];
    for (int t = 0; t < each; ++t) {
      const Sum own = sum[thread * each + t];
      sum[thread * each + t] = before;
      before += own;
    }
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
