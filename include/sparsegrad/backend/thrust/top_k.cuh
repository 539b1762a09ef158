// The k largest entries by absolute value: a radix select, then one ordered pass that writes them.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "../../core/backend.hpp"
#include "batch.cuh"
#include "block_sums.cuh"
#include "elements.cuh"
#include "top_k_search.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// What the two kernels below share: which entries of a block are above the k-th key or have it. The
/// threads of a tile read its entries side by side and note what they find as bits; then each has
/// entries that follow one another, those of the threads before it have lower positions.
template <class T>
struct ChosenEntries {
  static constexpr int threads = BlockSums<ChosenCount>::threads;
  static constexpr int lanes = 16;  ///< threads of a tile
  static constexpr index_t tiles_a_block = threads / lanes;
  static_assert(Shortlist<T>::tile <= 32 * lanes);
  using Tile = typename Shortlist<T>::Tile;
  /// A thread's entries, the first in the lowest bit.
  struct Bits {
    std::uint32_t above[threads];
    std::uint32_t equal[threads];
  };

  Shortlist<T> list;
  SelectState* state;
  ChosenCount* before;  ///< [blocks]: counted, then replaced by the sums of the blocks before

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return (list.tiles() + tiles_a_block - 1) / tiles_a_block; }

  /// First phase.
  SPARSEGRAD_HOST_DEVICE static void clear(int thread, Bits& bits) {
    bits.above[thread] = 0;
    bits.equal[thread] = 0;
  }
  /// Second phase.
  SPARSEGRAD_HOST_DEVICE void find(index_t block, int thread, Bits& bits) const {
    const index_t t = tile_of(block, thread);
    if (t >= list.tiles()) return;
    const Tile tile = list.listed(t);
    const int own = entries_a_thread(tile);
    const std::uint64_t kth = state->key;
    for (int e = thread % lanes; e < tile.size; e += lanes) {
      const std::uint64_t key = magnitude_key(tile.value[e]);
      if (key < kth) continue;
      const int owner = thread / lanes * lanes + e / own;
      atomic_or((key > kth ? bits.above : bits.equal) + owner, std::uint32_t{1} << (e % own));
    }
  }
  /// From the third phase on.
  SPARSEGRAD_HOST_DEVICE static ChosenCount sum(int thread, const Bits& bits) {
    return static_cast<ChosenCount>(count_bits(bits.above[thread])) * above_one +
           static_cast<ChosenCount>(count_bits(bits.equal[thread]));
  }
  /// f(entry's count, position, value) for those of a thread's entries.
  template <class F>
  SPARSEGRAD_HOST_DEVICE void for_each(index_t block, int thread, const Bits& bits, const F& f) const {
    std::uint32_t left = bits.above[thread] | bits.equal[thread];
    if (left == 0) return;
    const Tile tile = list.listed(tile_of(block, thread));
    const index_t first = thread % lanes * entries_a_thread(tile);
    for (; left != 0; left &= left - 1) {
      const std::uint32_t lowest = left & (~left + 1);
      const index_t e = first + count_bits(lowest - 1);  // bits below it
      f((bits.above[thread] & lowest) != 0 ? above_one : ChosenCount{1}, tile.position(e), tile.value[e]);
    }
  }

 private:
  static constexpr ChosenCount above_one = ChosenCount{1} << 32;

  SPARSEGRAD_HOST_DEVICE static index_t tile_of(index_t block, int thread) {
    return block * tiles_a_block + thread / lanes;
  }
  SPARSEGRAD_HOST_DEVICE static int entries_a_thread(const Tile& tile) {
    return (static_cast<int>(tile.size) + lanes - 1) / lanes;
  }
};

/// Counts of all blocks; the last one replaces them by the sums of the blocks before.
template <class T>
struct CountChosen {
  using Sums = BlockSums<ChosenCount>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 10;
  struct Shared {
    typename ChosenEntries<T>::Bits bits;
    Sums sums;
    bool last;
  };

  ChosenEntries<T> entries;

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return entries.blocks(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      entries.clear(thread, shared.bits);
    } else if constexpr (P == 1) {
      entries.find(block, thread, shared.bits);
    } else if constexpr (P == 2) {
      shared.sums.sum[thread] = entries.sum(thread, shared.bits);
    } else if constexpr (P == 3) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 4) {
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
    if constexpr (P == 5) {
      ChosenCount sum = 0;
      for (index_t t = first; t < end; ++t)
        sum += load_published(entries.before + t);
      shared.sums.sum[thread] = sum;
    } else if constexpr (P == 6) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 7) {
      if (thread == 0) shared.sums.scan_groups(0);
    } else if constexpr (P == 8) {
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
  static constexpr int phases = 7;
  struct Shared {
    typename ChosenEntries<T>::Bits bits;
    Sums sums;
  };

  ChosenEntries<T> entries;
  stored_index_t* index;
  T* value;

  SPARSEGRAD_HOST_DEVICE index_t blocks() const { return entries.blocks(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      entries.clear(thread, shared.bits);
    } else if constexpr (P == 1) {
      entries.find(block, thread, shared.bits);
    } else if constexpr (P == 2) {
      shared.sums.sum[thread] = entries.sum(thread, shared.bits);
    } else if constexpr (P == 3) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 4) {
      if (thread == 0) shared.sums.scan_groups(entries.before[block]);
    } else if constexpr (P == 5) {
      shared.sums.scan_threads(thread);
    } else {
      ChosenCount before = shared.sums.sum[thread];
      const std::uint32_t need = entries.state->need;
      entries.for_each(block, thread, shared.bits, [&, this](ChosenCount own, index_t i, T x) {
        const auto equal = static_cast<std::uint32_t>(before);
        if (own > 1 || (own == 1 && equal < need)) {
          const std::uint32_t at = static_cast<std::uint32_t>(before >> 32) + (equal < need ? equal : need);
          index[at] = static_cast<stored_index_t>(i);
          value[at] = x;
        }
        before += own;
      });
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

/// The contract's top_k and top_k_batched: six launches for float, nine for double, of as many
/// arrays as the parameters of a launch hold.
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
    const auto keeps = [](const Task& task) { return Shortlist<T>::pays(task.n, task.k); };
    const auto unlisted = [&](const Task& task) {
      return Shortlist<T>{task.x, entries(task), nullptr, nullptr, nullptr};
    };
    index_t blocks = 0;
    index_t listed = 0;  // tiles
    for (const Task& task : tasks) {
      blocks += ChosenEntries<T>{unlisted(task), nullptr, nullptr}.blocks();
      if (keeps(task)) listed += unlisted(task).tiles();
    }
    if (blocks == 0) return;

    auto frame = ctx.frame();
    const auto arrays = static_cast<index_t>(tasks.size());
    auto* states = frame.template take<SelectState>(arrays);
    auto* counts = frame.template take<std::uint32_t>(arrays * buckets);
    auto* before = frame.template take<ChosenCount>(blocks);
    auto* found = frame.template take<std::uint32_t>(listed);
    auto* place = frame.template take<std::uint16_t>(listed * Shortlist<T>::room);
    auto* value = frame.template take<T>(listed * Shortlist<T>::room);
    // kernel(task, its number, its shortlist or all of it, the blocks of the tasks before it)
    const auto launch = [&](const auto& kernel) {
      index_t block = 0;
      index_t tile = 0;
      launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
        Shortlist<T> list = unlisted(task);
        const index_t first_block = block;
        block += ChosenEntries<T>{list, nullptr, nullptr}.blocks();
        if (keeps(task)) {
          list.found = found + tile;
          list.place = place + tile * Shortlist<T>::room;
          list.value = value + tile * Shortlist<T>::room;
          tile += list.tiles();
        }
        return kernel(task, t, list, first_block);
      });
    };

    launch_batch<System>(ctx, tasks, [&](const Task& task, std::size_t t) {
      return StartSelect{states + t, counts + t * buckets,
                         entries(task) > 0 ? static_cast<std::uint32_t>(task.k) : 0};
    });
    constexpr int key_bits = 8 * static_cast<int>(sizeof(T)) - 1;  // without the sign
    Digit digit = Digit{key_bits, 0}.next();
    launch([&](const Task& task, std::size_t t, const Shortlist<T>&, index_t) {
      return FindDigit<T, false>{unlisted(task), digit, states + t, counts + t * buckets};
    });
    digit = digit.next();
    launch([&](const Task&, std::size_t t, const Shortlist<T>& list, index_t) {
      return FindDigit<T, true>{list, digit, states + t, counts + t * buckets};
    });
    for (digit = digit.next(); digit.bits > 0; digit = digit.next()) {
      launch([&](const Task&, std::size_t t, const Shortlist<T>& list, index_t) {
        return FindDigit<T, false>{list, digit, states + t, counts + t * buckets};
      });
    }
    launch([&](const Task&, std::size_t t, const Shortlist<T>& list, index_t block) {
      return CountChosen<T>{{list, states + t, before + block}};
    });
    launch([&](const Task& task, std::size_t t, const Shortlist<T>& list, index_t block) {
      return WriteChosen<T>{{list, states + t, before + block}, task.index, task.value};
    });
  }

  /// Bytes of scratch that run_batch takes on arrays of `elements` entries together.
  template <class T>
  static index_t batch_bytes(index_t arrays, index_t elements) {
    const index_t each =
        static_cast<index_t>(sizeof(SelectState) + buckets * sizeof(std::uint32_t) + sizeof(ChosenCount)) +
        Shortlist<T>::tile_bytes;
    return arrays * each + elements / Shortlist<T>::tile * (Shortlist<T>::tile_bytes + 1) + 4096;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
