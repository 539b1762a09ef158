// The k largest entries by absolute value: a radix select, then one ordered pass that writes them.
#pragma once

#include <span>
#include <vector>

#include "../../core/backend.hpp"
#include "batch.cuh"
#include "block_sums.cuh"
#include "elements.cuh"

namespace sparsegrad::backend::portable {

// The order is that of the pairs (key of |x|, falling position), all different, so that exactly k lie at or above
// the k-th. The k-th key is found digit by digit from the top; the entries above it are chosen, and of those that have it
// the first in position, which the ordered pass counts. Nothing on the way returns to the host. What follows from all
// blocks of a launch (the digit, the sums of the tiles) the last of them to end works out, in place of a launch of its own.

/// Where the search stands. Chosen in the end: key > this key, and the first `need` with this key.
struct SelectState {
  std::uint64_t key;      ///< digits of the k-th key that are known, the rest 0
  std::uint32_t need;     ///< entries still to be found among those that share the known digits
  std::uint32_t settled;  ///< all that share the known digits are chosen: no more digits matter
  std::uint32_t done;     ///< blocks of the present launch that have ended
};

inline constexpr int radix_bits = 11;
inline constexpr int buckets = 1 << radix_bits;

/// One digit of the key: its lowest bit and its width.
struct Digit {
  int shift;
  int bits;

  /// The digit below it, of `radix_bits` or what is left; of 0 bits where none is.
  SPARSEGRAD_HOST_DEVICE constexpr Digit next() const {
    const int width = shift < radix_bits ? shift : radix_bits;
    return {shift - width, width};
  }
};

/// Thread 0 of a block, after all its threads have published: whether all other blocks have ended. The last one sets the
/// count back.
SPARSEGRAD_HOST_DEVICE inline bool ends_last(SelectState* state, index_t blocks) {
  if (atomic_add(&state->done, 1) != static_cast<std::uint32_t>(blocks - 1)) return false;
  state->done = 0;
  publish();
  return true;
}

/// Counts the entries that share the known digits by their next one; the last block then finds the digit of the k-th
/// entry, and sets the counts to 0 for the next launch.
template <class T>
struct FindDigit {
  using Sums = BlockSums<std::uint32_t>;
  static constexpr int threads = Sums::threads;
  static constexpr int own = buckets / threads;
  static constexpr int phases = 9;
  static constexpr int at_once = 8;  ///< loads that are under way together
  static constexpr index_t tile = at_once * threads * 2;
  struct Shared {
    SelectState state;  // as it was: the last block writes the new one while others still end
    std::uint32_t count[buckets];
    bool last;
    Sums above;
  };

  const T* x;
  index_t n;
  Digit digit;
  SelectState* state;
  std::uint32_t* counts;

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return (n + tile - 1) / tile; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      if (thread == 0) shared.state = *state;
      for (int b = thread; b < buckets; b += threads)
        shared.count[b] = 0;
    } else if constexpr (P == 1) {
      if (shared.state.settled == 0) count(block, thread, shared);
    } else if constexpr (P == 2) {
      if (shared.state.settled != 0) return;
      for (int b = thread; b < buckets; b += threads)
        if (shared.count[b] != 0) atomic_add(counts + b, shared.count[b]);
      publish();
    } else if constexpr (P == 3) {
      if (thread == 0) shared.last = shared.state.settled == 0 && ends_last(state, blocks());
    } else {
      if (shared.last) choose<P>(thread, shared);
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE void count(index_t block, int thread, Shared& shared) const {
    const index_t end = (block + 1) * tile < n ? (block + 1) * tile : n;
    const int above = digit.shift + digit.bits;
    const std::uint64_t known = shared.state.key >> above;
    const std::uint64_t mask = (std::uint64_t{1} << digit.bits) - 1;
    for (index_t first = block * tile + thread; first < end; first += index_t{at_once} * threads) {
      std::uint64_t key[at_once];
      for (int e = 0; e < at_once; ++e) {
        const index_t i = first + index_t{e} * threads;
        key[e] = i < end ? static_cast<std::uint64_t>(magnitude_key(x[i]))
                         : UINT64_MAX;  // no key has this top bit
      }
      for (int e = 0; e < at_once; ++e)
        if (key[e] >> above == known) atomic_add(shared.count + ((key[e] >> digit.shift) & mask), 1);
    }
  }

  /// Buckets from the top: thread 0 has the largest.
  SPARSEGRAD_HOST_DEVICE static int bucket(int thread, int b) { return buckets - 1 - (thread * own + b); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void choose(int thread, Shared& shared) const {
    if constexpr (P == 4) {
      std::uint32_t sum = 0;
      for (int b = 0; b < own; ++b) {
        const int at = bucket(thread, b);
        shared.count[at] = load_published(counts + at);
        counts[at] = 0;
        sum += shared.count[at];
      }
      shared.above.sum[thread] = sum;
    } else if constexpr (P == 5) {
      shared.above.add_group(thread);
    } else if constexpr (P == 6) {
      if (thread == 0) shared.above.scan_groups(0);
    } else if constexpr (P == 7) {
      shared.above.scan_threads(thread);
    } else {
      std::uint32_t before = shared.above.sum[thread];
      for (int b = 0; b < own; ++b) {
        const std::uint32_t count = shared.count[bucket(thread, b)];
        const std::uint32_t need = shared.state.need;
        if (before < need && need <= before + count) {
          state->key = shared.state.key | static_cast<std::uint64_t>(bucket(thread, b)) << digit.shift;
          state->need = need - before;
          state->settled = need - before == count ? 1 : 0;
        }
        before += count;
      }
    }
  }
};

/// Entries above the k-th key (in the upper half) and with it (in the lower).
using ChosenCount = std::uint64_t;

/// What the two kernels below share: how a tile's entries are counted.
template <class T>
struct ChosenTiles {
  static constexpr int own = 8;
  static constexpr index_t tile = BlockSums<ChosenCount>::threads * own;

  const T* x;
  index_t n;
  SelectState* state;
  ChosenCount* before;  ///< [tiles]: counted, then replaced by the sums of the tiles before

  SPARSEGRAD_HOST_DEVICE index_t tiles() const { return (n + tile - 1) / tile; }

  SPARSEGRAD_HOST_DEVICE ChosenCount count(index_t i) const {
    const std::uint64_t key = magnitude_key(x[i]);
    if (key > state->key) return ChosenCount{1} << 32;
    return key == state->key ? 1 : 0;
  }
  SPARSEGRAD_HOST_DEVICE index_t first(index_t block, int thread) const {
    return block * tile + thread * own;
  }
  SPARSEGRAD_HOST_DEVICE index_t end(index_t block, int thread) const {
    const index_t last = first(block, thread) + own;
    return last < n ? last : n;
  }
  SPARSEGRAD_HOST_DEVICE ChosenCount sum(index_t block, int thread) const {
    ChosenCount all = 0;
    for (index_t i = first(block, thread); i < end(block, thread); ++i)
      all += count(i);
    return all;
  }
};

/// Counts of all tiles; the last block replaces them by the sums of the tiles before.
template <class T>
struct CountChosen {
  using Sums = BlockSums<ChosenCount>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 8;
  struct Shared {
    Sums sums;
    bool last;
  };

  ChosenTiles<T> entries;

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return entries.tiles(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      shared.sums.sum[thread] = entries.sum(block, thread);
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread != 0) return;
      entries.before[block] = shared.sums.scan_groups(0);
      publish();
      shared.last = ends_last(entries.state, blocks());
    } else {
      if (shared.last) scan<P>(thread, shared);
    }
  }

 private:
  template <int P>
  SPARSEGRAD_HOST_DEVICE void scan(int thread, Shared& shared) const {
    const index_t each = (blocks() + threads - 1) / threads;
    const index_t first = thread * each;
    const index_t end = first + each < blocks() ? first + each : blocks();
    if constexpr (P == 3) {
      ChosenCount sum = 0;
      for (index_t t = first; t < end; ++t)
        sum += load_published(entries.before + t);
      shared.sums.sum[thread] = sum;
    } else if constexpr (P == 4) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 5) {
      if (thread == 0) shared.sums.scan_groups(0);
    } else if constexpr (P == 6) {
      shared.sums.scan_threads(thread);
    } else {
      ChosenCount before = shared.sums.sum[thread];
      for (index_t t = first; t < end; ++t) {
        const ChosenCount own = load_published(entries.before + t);
        entries.before[t] = before;
        before += own;
      }
    }
  }
};

/// Positions and values of the chosen entries, in their order.
template <class T>
struct WriteChosen {
  using Sums = BlockSums<ChosenCount>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 5;
  struct Shared {
    Sums sums;
  };

  ChosenTiles<T> entries;
  stored_index_t* index;
  T* value;

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return entries.tiles(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      shared.sums.sum[thread] = entries.sum(block, thread);
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread == 0) shared.sums.scan_groups(entries.before[block]);
    } else if constexpr (P == 3) {
      shared.sums.scan_threads(thread);
    } else {
      ChosenCount before = shared.sums.sum[thread];
      const std::uint32_t need = entries.state->need;
      for (index_t i = entries.first(block, thread); i < entries.end(block, thread); ++i) {
        const ChosenCount own = entries.count(i);
        const auto equal = static_cast<std::uint32_t>(before);
        if (own > 1 || (own == 1 && equal < need)) {
          const std::uint32_t at = static_cast<std::uint32_t>(before >> 32) + (equal < need ? equal : need);
          index[at] = static_cast<stored_index_t>(i);
          value[at] = entries.x[i];
        }
        before += own;
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

  index_t blocks() const { return k > 0 ? 1 : 0; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    for (int b = thread; b < buckets; b += threads)
      counts[b] = 0;
    if (thread == 0) *state = {0, k, 0, 0};
  }
};

/// The contract's top_k and top_k_batched: six launches for float, nine for double, of as many arrays as the parameters
/// of a launch hold.
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
    const auto entries = [](const Task& task) { return task.k > 0 && task.index != nullptr ? task.n : 0; };
    index_t all_tiles = 0;
    for (const Task& task : tasks)
      all_tiles += ChosenTiles<T>{task.x, entries(task), nullptr, nullptr}.tiles();
    if (all_tiles == 0) return;

    auto frame = ctx.frame();
    const auto arrays = static_cast<index_t>(tasks.size());
    auto* states = frame.template take<SelectState>(arrays);
    auto* counts = frame.template take<std::uint32_t>(arrays * buckets);
    auto* before = frame.template take<ChosenCount>(all_tiles);
    launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
      return StartSelect{states + t, counts + t * buckets,
                         entries(task) > 0 ? static_cast<std::uint32_t>(task.k) : 0};
    });
    constexpr int key_bits = 8 * static_cast<int>(sizeof(T)) - 1;  // without the sign
    for (Digit digit = Digit{key_bits, 0}.next(); digit.bits > 0; digit = digit.next()) {
      launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
        return FindDigit<T>{task.x, entries(task), digit, states + t, counts + t * buckets};
      });
    }
    const auto for_tiles = [&](const auto& kernel) {
      index_t tile = 0;
      launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
        const ChosenTiles<T> chosen{task.x, entries(task), states + t, before + tile};
        tile += chosen.tiles();
        return kernel(task, chosen);
      });
    };
    for_tiles([](const Task&, const ChosenTiles<T>& chosen) { return CountChosen<T>{chosen}; });
    for_tiles([](const Task& task, const ChosenTiles<T>& chosen) {
      return WriteChosen<T>{chosen, task.index, task.value};
    });
  }

  /// Bytes of scratch that run_batch takes on arrays of `elements` entries together.
  static index_t batch_bytes(index_t arrays, index_t elements) {
    return arrays * static_cast<index_t>(sizeof(SelectState) + buckets * sizeof(std::uint32_t) +
                                         sizeof(ChosenCount)) +
           elements / ChosenTiles<float>::tile * static_cast<index_t>(sizeof(ChosenCount)) + 1024;
  }
};

}  // namespace sparsegrad::backend::portable
