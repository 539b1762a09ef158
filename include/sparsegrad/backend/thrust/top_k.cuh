// The k largest entries by absolute value: a radix select, then one ordered pass that writes them.
#pragma once

#include <span>
#include <vector>

#include <thrust/scan.h>

#include "../../core/backend.hpp"
#include "batch.cuh"
#include "elements.cuh"

namespace sparsegrad::backend::portable {

// The order is that of the pairs (key of |x|, falling position), all different, so that exactly k lie at or above
// the k-th. Its digits are found from the top: first those of the key, then, only where entries of the k-th key must
// be told apart, those of the position. Nothing on the way returns to the host.

/// Where the search stands. Chosen in the end: key > this key, or key == this key and position <= last.
struct SelectState {
  std::uint64_t key;       ///< digits of the k-th key that are known, the rest 0
  std::uint64_t position;  ///< digits of the last position, among entries of that key
  std::uint32_t need;      ///< entries still to be found among those that share the known digits
  std::uint32_t settled;   ///< all that share the known digits of the key are chosen: no more digits matter
};

inline constexpr int radix_bits = 11;
inline constexpr int buckets = 1 << radix_bits;

/// One digit: its lowest bit, and whether it is the key's or the position's.
struct Digit {
  int shift;
  bool of_position;
};

/// counts[b] += entries that share the known digits and have b as the next one. For the position b counts from the
/// top as well: low positions come first.
template <class T>
struct CountDigits {
  static constexpr int threads = 256;
  static constexpr int phases = 3;
  static constexpr index_t tile = 8192;
  struct Shared {
    std::uint32_t count[buckets];
  };

  const T* x;
  index_t n;
  Digit digit;
  const SelectState* state;
  std::uint32_t* counts;

  index_t blocks() const { return (n + tile - 1) / tile; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if (state->settled != 0) return;
    if constexpr (P == 0) {
      for (int b = thread; b < buckets; b += threads)
        shared.count[b] = 0;
    } else if constexpr (P == 1) {
      const index_t end = (block + 1) * tile < n ? (block + 1) * tile : n;
      for (index_t i = block * tile + thread; i < end; i += threads)
        count(i, shared);
    } else {
      for (int b = thread; b < buckets; b += threads)
        if (shared.count[b] != 0) atomic_add(counts + b, shared.count[b]);
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE void count(index_t i, Shared& shared) const {
    const std::uint64_t key = magnitude_key(x[i]);
    const auto mask = static_cast<std::uint64_t>(buckets - 1);
    if (!digit.of_position) {
      const int above = digit.shift + radix_bits;
      if (above < 64 && (key >> above) != (state->key >> above)) return;
      atomic_add(shared.count + ((key >> digit.shift) & mask), 1);
    } else {
      const auto position = static_cast<std::uint64_t>(i);
      const int above = digit.shift + radix_bits;
      if (key != state->key || (position >> above) != (state->position >> above)) return;
      atomic_add(shared.count + (mask - ((position >> digit.shift) & mask)), 1);
    }
  }
};

/// Sums over a block's threads: what the threads before each one have, in three phases after sum[] is filled.
struct BlockSums {
  static constexpr int threads = 256;
  static constexpr int groups = 16;
  static constexpr int each = threads / groups;
  std::uint32_t sum[threads];   ///< a thread's own; from phase 3 on, of all before it
  std::uint32_t group[groups];  ///< of a group's threads; from phase 2 on, of all before it

  SPARSEGRAD_HOST_DEVICE void add_group(int thread) {
    if (thread >= groups) return;
    std::uint32_t all = 0;
    for (int t = 0; t < each; ++t)
      all += sum[thread * each + t];
    group[thread] = all;
  }
  /// Thread 0 alone; returns `before` and the sum of all.
  SPARSEGRAD_HOST_DEVICE std::uint32_t scan_groups(std::uint32_t before) {
    for (int g = 0; g < groups; ++g) {
      const std::uint32_t own = group[g];
      group[g] = before;
      before += own;
    }
    return before;
  }
  SPARSEGRAD_HOST_DEVICE void scan_threads(int thread) {
    if (thread >= groups) return;
    std::uint32_t before = group[thread];
    for (int t = 0; t < each; ++t) {
      const std::uint32_t own = sum[thread * each + t];
      sum[thread * each + t] = before;
      before += own;
    }
  }
};

/// One block: the bucket that holds the entry looked for; then the counts are 0 again.
struct ChooseDigit {
  static constexpr int threads = BlockSums::threads;
  static constexpr int own = buckets / threads;
  static constexpr int phases = 5;
  struct Shared {
    SelectState state;  // as it was: one thread writes the new one while others still choose
    BlockSums above;
  };

  Digit digit;
  SelectState* state;
  std::uint32_t* counts;

  static constexpr index_t blocks() { return 1; }

  /// Buckets from the top: thread 0 has the largest.
  SPARSEGRAD_HOST_DEVICE int bucket(int thread, int b) const { return buckets - 1 - (thread * own + b); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      std::uint32_t sum = 0;
      for (int b = 0; b < own; ++b)
        sum += counts[bucket(thread, b)];
      shared.above.sum[thread] = sum;
      if (thread == 0) shared.state = *state;
    } else if constexpr (P == 1) {
      shared.above.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread == 0) shared.above.scan_groups(0);
    } else if constexpr (P == 3) {
      shared.above.scan_threads(thread);
    } else {
      std::uint32_t before = shared.above.sum[thread];
      for (int b = 0; b < own; ++b) {
        const std::uint32_t count = counts[bucket(thread, b)];
        counts[bucket(thread, b)] = 0;
        const bool here = before < shared.state.need && shared.state.need <= before + count;
        if (here && shared.state.settled == 0) *state = after(shared.state, bucket(thread, b), before, count);
        before += count;
      }
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE SelectState after(SelectState s, int bucket, std::uint32_t before,
                                           std::uint32_t count) const {
    s.need -= before;
    s.settled = s.need == count ? 1 : 0;
    const auto chosen = static_cast<std::uint64_t>(bucket);
    if (!digit.of_position) {
      s.key |= chosen << digit.shift;
      if (s.settled != 0) s.position = UINT64_MAX;
    } else {
      s.position |= (static_cast<std::uint64_t>(buckets - 1) - chosen) << digit.shift;
      if (s.settled != 0) s.position |= (std::uint64_t{1} << digit.shift) - 1;
    }
    return s;
  }
};

/// How many entries of each tile are chosen; or, with the sums of the tiles before, their positions and values.
template <class T>
struct WriteChosen {
  static constexpr int threads = BlockSums::threads;
  static constexpr int own = 8;
  static constexpr index_t tile = threads * own;
  static constexpr int phases = 5;
  struct Shared {
    BlockSums before;
  };

  const T* x;
  index_t n;
  const SelectState* state;
  std::uint32_t* before;  ///< [tiles]: counted, then replaced by the sums of the tiles before
  std::uint32_t base;     ///< what these sums hold of other arrays
  stored_index_t* index;  ///< null: count
  T* value;

  static constexpr index_t tiles(index_t n) { return (n + tile - 1) / tile; }
  index_t blocks() const { return tiles(n); }

  SPARSEGRAD_HOST_DEVICE bool chosen(index_t i) const {
    const std::uint64_t key = magnitude_key(x[i]);
    return key > state->key || (key == state->key && static_cast<std::uint64_t>(i) <= state->position);
  }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t first = block * tile + thread * own;
    const index_t end = first + own < n ? first + own : n;
    const bool counts = index == nullptr;
    if constexpr (P == 0) {
      std::uint32_t sum = 0;
      for (index_t i = first; i < end; ++i)
        sum += chosen(i) ? 1 : 0;
      shared.before.sum[thread] = sum;
    } else if constexpr (P == 1) {
      shared.before.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread != 0) return;
      const std::uint32_t sum = shared.before.scan_groups(counts ? 0 : before[block] - base);
      if (counts) before[block] = sum;
    } else if constexpr (P == 3) {
      if (!counts) shared.before.scan_threads(thread);
    } else {
      if (counts) return;
      std::uint32_t at = shared.before.sum[thread];
      for (index_t i = first; i < end; ++i) {
        if (!chosen(i)) continue;
        index[at] = static_cast<stored_index_t>(i);
        value[at] = x[i];
        ++at;
      }
    }
  }
};

/// One block: no digit is known yet.
struct StartSelect {
  static constexpr int threads = 256;
  static constexpr int phases = 1;
  struct Shared {};

  SelectState* state;
  std::uint32_t* counts;
  std::uint32_t k;

  static constexpr index_t blocks() { return 1; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    for (int b = thread; b < buckets; b += threads)
      counts[b] = 0;
    if (thread == 0) *state = {0, 0, k, 0};
  }
};

/// The contract's top_k and top_k_batched.
template <class System>
struct TopK {
  using Context = typename System::Context;

  template <class T>
  static void run(Context& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    const TopKTask<T> task{x, n, k, index, value};
    run_batch<T>(ctx, std::span<const TopKTask<T>>(&task, 1));
  }

  /// All arrays take every pass together.
  template <class T>
  static void run_batch(Context& ctx, std::span<const TopKTask<T>> tasks) {
    if (tasks.empty()) return;
    using Task = TopKTask<T>;
    // A task without positions wants all its entries.
    launch_batch<System>(ctx, tasks, [](const Task& task, std::size_t) {
      return ElementBlocks<CopyElement<T>>{{task.x, task.value}, task.index == nullptr ? task.k : 0};
    });
    auto frame = ctx.frame();
    const auto arrays = static_cast<index_t>(tasks.size());
    auto* states = frame.template take<SelectState>(arrays);
    auto* counts = frame.template take<std::uint32_t>(arrays * buckets);
    const auto selects = [](const Task& task) { return task.k > 0 && task.index != nullptr; };
    launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
      return StartSelect{states + t, counts + t * buckets, static_cast<std::uint32_t>(task.k)};
    });
    const auto find_digit = [&](const Digit& digit) {
      launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
        return CountDigits<T>{task.x, selects(task) ? task.n : 0, digit, states + t, counts + t * buckets};
      });
      launch_batch<System>(ctx, tasks, [&](const Task&, std::size_t t) {
        return ChooseDigit{digit, states + t, counts + t * buckets};
      });
    };
    constexpr int key_bits = 8 * static_cast<int>(sizeof(T)) - 1;  // without the sign
    for (int shift = top_shift(key_bits); shift >= 0; shift -= radix_bits)
      find_digit({shift, false});
    for (int shift = top_shift(31); shift >= 0; shift -= radix_bits)
      find_digit({shift, true});

    // The tiles of all arrays stand one after the other in one scan. What an array's tiles find before them of other
    // arrays is what those chose: k each.
    const auto tiles = [&](const Task& task) { return selects(task) ? WriteChosen<T>::tiles(task.n) : 0; };
    index_t all_tiles = 0;
    for (const Task& task : tasks)
      all_tiles += tiles(task);
    if (all_tiles == 0) return;
    auto* before = frame.template take<std::uint32_t>(all_tiles);
    const auto write = [&](bool positions) {
      index_t tile = 0;
      std::uint32_t chosen = 0;
      launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
        const WriteChosen<T> kernel{task.x, selects(task) ? task.n : 0,       states + t, before + tile,
                                    chosen, positions ? task.index : nullptr, task.value};
        tile += tiles(task);
        if (selects(task)) chosen += static_cast<std::uint32_t>(task.k);
        return kernel;
      });
    };
    write(false);
    thrust::exclusive_scan(System::policy(ctx), before, before + all_tiles, before);
    write(true);
  }

  /// Bytes of scratch that run_batch takes on arrays of `elements` entries together, Thrust's own apart.
  static index_t batch_bytes(index_t arrays, index_t elements) {
    return arrays * static_cast<index_t>(sizeof(SelectState) + (buckets + 1) * sizeof(std::uint32_t)) +
           elements / WriteChosen<float>::tile * static_cast<index_t>(sizeof(std::uint32_t)) + 1024;
  }

 private:
  static constexpr int top_shift(int bits) { return (bits - 1) / radix_bits * radix_bits; }
};

}  // namespace sparsegrad::backend::portable
