// The search of top-k: the digits of the k-th largest magnitude, and where entries above it stand.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "../../core/backend.hpp"
#include "batch.cuh"
#include "block_sums.cuh"
#include "elements.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

// The order is that of the pairs (key of |x|, falling position), all different, so that exactly k
// lie at or above the k-th. The k-th key is found digit by digit from the top; the entries above it
// are chosen, and of those that have it the first in position, which the ordered pass counts.
// Nothing on the way returns to the host. What follows from all blocks of a launch (the digit, the
// sums of the tiles) the last of them to end works out, in place of a launch of its own. Large
// arrays are read from memory twice: the pass of the second digit keeps aside the entries that can
// still be chosen (a shortlist), and the passes after it read those alone.

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

/// Thread 0 of a block, after all its threads have published: whether all other blocks have ended.
/// The last one sets the count back.
SPARSEGRAD_HOST_DEVICE inline bool ends_last(SelectState* state, index_t blocks) {
  if (atomic_add(&state->done, 1) != static_cast<std::uint32_t>(blocks - 1)) return false;
  state->done = 0;
  publish();
  return true;
}

/// The entries of an array that can still be chosen, by tiles of the array and in order of
/// position. A tile that has more of them than there is room for stands for itself, with all its
/// entries.
template <class T>
struct Shortlist {
  static constexpr index_t tile = 512;
  static constexpr index_t room = 32;
  /// Bytes of a tile's share of the lists.
  static constexpr index_t tile_bytes = static_cast<index_t>(sizeof(std::uint32_t)) +
                                        room * static_cast<index_t>(sizeof(T) + sizeof(std::uint16_t));

  const T* x;
  index_t n;
  std::uint32_t* found;  ///< [tiles]: entries of a tile that can be chosen; null: every tile is read
  T* value;              ///< [tiles, room]
  std::uint16_t* place;  ///< [tiles, room]: in the tile

  /// Worth it where a tile has few such entries: by k those that are chosen, and some more that
  /// share their digit.
  static bool pays(index_t n, index_t k) { return k <= n / (2 * room); }

  struct Tile {
    const T* value;
    const std::uint16_t* place;  ///< null: the entries follow one another
    index_t first;
    index_t size;

    SPARSEGRAD_HOST_DEVICE index_t position(index_t e) const {
      return first + (place == nullptr ? e : place[e]);
    }
  };

  SPARSEGRAD_HOST_DEVICE index_t tiles() const { return (n + tile - 1) / tile; }
  SPARSEGRAD_HOST_DEVICE Tile all(index_t t) const {
    const index_t first = t * tile;
    const index_t left = n - first;
    return {x + first, nullptr, first, left < tile ? left : tile};
  }
  SPARSEGRAD_HOST_DEVICE Tile listed(index_t t) const {
    if (found == nullptr || found[t] > room) return all(t);
    return {value + t * room, place + t * room, t * tile, static_cast<index_t>(found[t])};
  }
};

/// The entries of a block's tiles that can still be chosen, as its threads meet them.
template <class T, int tiles>
struct Finds {
  std::uint32_t found[static_cast<std::size_t>(tiles)];
  T value[static_cast<std::size_t>(tiles)][Shortlist<T>::room];
  std::uint16_t place[static_cast<std::size_t>(tiles)][Shortlist<T>::room];

  SPARSEGRAD_HOST_DEVICE void add(int tile, index_t at, T x) {
    const std::uint32_t number = atomic_add(found + tile, 1);
    if (number >= Shortlist<T>::room) return;
    value[tile][number] = x;
    place[tile][number] = static_cast<std::uint16_t>(at);
  }
  /// Entry `number` of a tile, to where its position belongs among the tile's.
  SPARSEGRAD_HOST_DEVICE void write(int tile, std::uint32_t number, T* values, std::uint16_t* places) const {
    int before = 0;
    for (std::uint32_t s = 0; s < found[tile]; ++s)
      before += place[tile][s] < place[tile][number] ? 1 : 0;
    values[before] = value[tile][number];
    places[before] = place[tile][number];
  }
};

/// Counts the entries that share the known digits by their next one; the last block then finds the
/// digit of the k-th entry, and sets the counts to 0 for the next launch. With `keeps` it reads all
/// of the array and makes the shortlist, if there is one, of what has the known digits or more;
/// without, it reads what the shortlist has.
template <class T, bool keeps>
struct FindDigit {
  using Sums = BlockSums<std::uint32_t>;
  static constexpr int threads = Sums::threads;
  static constexpr int own = buckets / threads;
  static constexpr int phases = 9;
  static constexpr int lanes = 32;  ///< threads of a tile
  static constexpr int tiles_at_once = threads / lanes;
  static constexpr int at_once = 8;  ///< loads that are under way together
  struct Nothing {};
  struct Shared {
    SelectState state;  // as it was: the last block writes the new one while others still end
    std::uint32_t count[buckets];
    bool last;
    Sums above;
    std::conditional_t<keeps, Finds<T, tiles_at_once>, Nothing> finds;
  };

  Shortlist<T> list;
  Digit digit;
  SelectState* state;
  std::uint32_t* counts;

  /// Tiles that the lanes take one after the other: a shortlist has little in a tile.
  SPARSEGRAD_HOST_DEVICE index_t rounds() const { return keeps || list.found == nullptr ? 1 : 4; }
  SPARSEGRAD_HOST_DEVICE index_t blocks() const {
    const index_t tiles_a_block = tiles_at_once * rounds();
    return (list.tiles() + tiles_a_block - 1) / tiles_a_block;
  }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      if (thread == 0) shared.state = *state;
      for (int b = thread; b < buckets; b += threads)
        shared.count[b] = 0;
      if constexpr (keeps)
        if (thread < tiles_at_once) shared.finds.found[thread] = 0;
    } else if constexpr (P == 1) {
      if (!keeps && shared.state.settled != 0) return;
      for (index_t r = 0; r < rounds(); ++r) {
        const index_t t = (block * rounds() + r) * tiles_at_once + thread / lanes;
        if (t < list.tiles()) count(keeps ? list.all(t) : list.listed(t), thread, shared);
      }
    } else if constexpr (P == 2) {
      if constexpr (keeps)
        if (list.found != nullptr) keep(block, thread, shared);
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
  SPARSEGRAD_HOST_DEVICE void count(const typename Shortlist<T>::Tile& tile, int thread,
                                    Shared& shared) const {
    const int above = digit.shift + digit.bits;
    const std::uint64_t known = shared.state.key >> above;
    const std::uint64_t mask = (std::uint64_t{1} << digit.bits) - 1;
    for (index_t first = thread % lanes; first < tile.size; first += index_t{at_once} * lanes) {
      T x[at_once];
      for (int e = 0; e < at_once; ++e) {
        const index_t i = first + index_t{e} * lanes;
        x[e] = i < tile.size ? tile.value[i] : T(0);
      }
      for (int e = 0; e < at_once; ++e) {
        const index_t i = first + index_t{e} * lanes;
        if (i >= tile.size) return;
        const std::uint64_t key = magnitude_key(x[e]);
        if (key >> above == known) atomic_add(shared.count + ((key >> digit.shift) & mask), 1);
        if constexpr (keeps)
          if (list.found != nullptr && key >> above >= known) shared.finds.add(thread / lanes, i, x[e]);
      }
    }
  }

  /// A tile's lanes write what its part of the shortlist has room for.
  SPARSEGRAD_HOST_DEVICE void keep(index_t block, int thread, Shared& shared) const {
    static_assert(Shortlist<T>::room == lanes);
    const int tile = thread / lanes;
    const index_t t = block * tiles_at_once + tile;
    if (t >= list.tiles()) return;
    const auto number = static_cast<std::uint32_t>(thread % lanes);
    const std::uint32_t found = shared.finds.found[tile];
    if (number == 0) list.found[t] = found;
    if (found <= Shortlist<T>::room && number < found)
      shared.finds.write(tile, number, list.value + t * Shortlist<T>::room,
                         list.place + t * Shortlist<T>::room);
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

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
