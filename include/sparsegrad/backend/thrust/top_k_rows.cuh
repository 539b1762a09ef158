// Of each row of a matrix the k largest entries by absolute value: a block a row, in one launch.
#pragma once

#include "top_k.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// The others become 0. The same entries as top_k's of that row: the k-th key digit by digit, as
/// there, then of those that have it the first in position.
template <class T>
struct KeepLargestOfRow {
  using Sums = BlockSums<std::uint32_t>;
  static constexpr int threads = Sums::threads;
  static constexpr int own = buckets / threads;
  static constexpr int key_bits = 8 * static_cast<int>(sizeof(T)) - 1;  // without the sign
  static constexpr int digits = (key_bits + radix_bits - 1) / radix_bits;
  static constexpr int digit_phases = 6;
  static constexpr int last = 1 + digits * digit_phases;  ///< the first phase after the digits
  static constexpr int phases = last + 5;
  struct Shared {
    std::uint64_t key;   // digits of the k-th key that are known, the rest 0
    std::uint32_t need;  // entries still to be found among those that share them
    // The same while a digit is looked for: one thread writes `need` while others still read.
    std::uint32_t sought;
    std::uint32_t count[buckets];
    Sums sums;
  };

  Array2<T> a;
  index_t cols;
  std::uint32_t k;  ///< 0 < k < cols

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t row, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      clear(thread, shared);
      if (thread == 0) {
        shared.key = 0;
        shared.need = k;
      }
    } else if constexpr (P < last) {
      constexpr Digit now = digit((P - 1) / digit_phases);
      find_digit<(P - 1) % digit_phases>(row, thread, now, shared);
    } else {
      keep<P - last>(row, thread, shared);
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE static constexpr Digit digit(int number) {
    Digit found = Digit{key_bits, 0}.next();
    for (int n = 0; n < number; ++n)
      found = found.next();
    return found;
  }
  SPARSEGRAD_HOST_DEVICE static int bucket(int thread, int b) { return buckets - 1 - (thread * own + b); }
  SPARSEGRAD_HOST_DEVICE static void clear(int thread, Shared& shared) {
    for (int b = 0; b < own; ++b)
      shared.count[bucket(thread, b)] = 0;
  }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void find_digit(index_t row, int thread, Digit digit, Shared& shared) const {
    if constexpr (P == 0) {
      const int above = digit.shift + digit.bits;
      const std::uint64_t mask = (std::uint64_t{1} << digit.bits) - 1;
      for (index_t j = thread; j < cols; j += threads) {
        const std::uint64_t key = magnitude_key(a(row, j));
        if (key >> above == shared.key >> above) atomic_add(shared.count + ((key >> digit.shift) & mask), 1);
      }
    } else if constexpr (P == 1) {
      std::uint32_t sum = 0;
      for (int b = 0; b < own; ++b)
        sum += shared.count[bucket(thread, b)];
      shared.sums.sum[thread] = sum;
    } else if constexpr (P == 2) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 3) {
      if (thread != 0) return;
      shared.sums.scan_groups(0);
      shared.sought = shared.need;
    } else if constexpr (P == 4) {
      shared.sums.scan_threads(thread);
    } else {
      std::uint32_t before = shared.sums.sum[thread];
      const std::uint32_t need = shared.sought;
      for (int b = 0; b < own; ++b) {
        const std::uint32_t count = shared.count[bucket(thread, b)];
        if (before < need && need <= before + count) {
          shared.key |= static_cast<std::uint64_t>(bucket(thread, b)) << digit.shift;
          shared.need = need - before;
        }
        before += count;
      }
      clear(thread, shared);
    }
  }

  /// A thread's entries stand together here, so that those before it are those of the threads
  /// before.
  template <int P>
  SPARSEGRAD_HOST_DEVICE void keep(index_t row, int thread, Shared& shared) const {
    const index_t each = (cols + threads - 1) / threads;
    const index_t first = thread * each;
    const index_t end = first + each < cols ? first + each : cols;
    if constexpr (P == 0) {
      std::uint32_t sum = 0;
      for (index_t j = first; j < end; ++j)
        sum += magnitude_key(a(row, j)) == shared.key ? 1U : 0U;
      shared.sums.sum[thread] = sum;
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread == 0) shared.sums.scan_groups(0);
    } else if constexpr (P == 3) {
      shared.sums.scan_threads(thread);
    } else {
      std::uint32_t equal = shared.sums.sum[thread];
      for (index_t j = first; j < end; ++j) {
        const std::uint64_t key = magnitude_key(a(row, j));
        const bool chosen = key > shared.key || (key == shared.key && equal < shared.need);
        if (key == shared.key) ++equal;
        if (!chosen) a(row, j) = T(0);
      }
    }
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
