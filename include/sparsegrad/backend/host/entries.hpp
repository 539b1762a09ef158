// Merging a sparse gradient's support into the sorted support of a compact optimizer state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "context.hpp"
#include "lanes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The primitives `locate_entries` and `insert_entries` of the contract (core/backend.hpp).
struct Entries {
  /// First the place of each entry among those held, then which of them are new: less to keep in
  /// registers at a time.
  static index_t locate_entries(HostContext&, const stored_index_t* index, index_t k,
                                const stored_index_t* held, index_t n, stored_index_t* place,
                                stored_index_t* added) {
    find_places(index, k, held, n, place);
    index_t q = 0;
    index_t e = 0;
    for (; e < k && place[e] < n; ++e) {
      // Without branches: whether an entry is new follows no pattern.
      const stored_index_t held_place = place[e];
      place[e] = held_place + static_cast<stored_index_t>(q);
      added[q] = static_cast<stored_index_t>(e);
      q += static_cast<index_t>(held[held_place] != index[e]);
    }
    for (; e < k; ++e) {
      place[e] = static_cast<stored_index_t>(n + q);
      added[q++] = static_cast<stored_index_t>(e);
    }
    return q;
  }

  template <class T>
  static void insert_entries(HostContext&, const stored_index_t* index, const stored_index_t* place,
                             const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m,
                             T* v, std::int32_t* count) {
    // Blocks as long as most segments between two new entries: how many of them a segment takes is
    // a branch that nothing could predict.
    const auto open_by = [&](auto... moments) {
      if (n < 4 * q) {
        open<8>(index, place, added, q, n, held, moments...);
      } else {
        open<16>(index, place, added, q, n, held, moments...);
      }
    };
    if (count == nullptr) {
      open_by(m, v);
    } else {
      open_by(m, v, count);
    }
  }

 private:
  /// Held elements that `advance` looks at.
  static constexpr index_t window = 16;

  /// place[e] = number of held elements below index[e].
  static void find_places(const stored_index_t* index, index_t k, const stored_index_t* held, index_t n,
                          stored_index_t* place) {
    // Of the entries up to here all predecessors have a full window of held elements behind their
    // place.
    const index_t inside = n < window ? 0 : std::upper_bound(index, index + k, held[n - window]) - index;
    // Six parts of the support side by side: one search alone waits for its own last load.
    constexpr index_t lanes = 6;
    const index_t part = inside / lanes;
    index_t at[lanes] = {};
    for (index_t lane = 0; lane < lanes && part > 0; ++lane)
      at[lane] = std::lower_bound(held, held + n, index[lane * part]) - held;
    const auto step = [&](index_t lane, index_t e) __attribute__((always_inline)) {
      at[lane] = advance(held, n, at[lane], index[e]);
      place[e] = static_cast<stored_index_t>(at[lane]);
    };
    for (index_t e = 0; e < part; ++e) {
      step(0, e);
      step(1, part + e);
      step(2, 2 * part + e);
      step(3, 3 * part + e);
      step(4, 4 * part + e);
      step(5, 5 * part + e);
    }
    index_t i = at[lanes - 1];
    index_t e = lanes * part;
    for (; e < k && i < n; ++e) {
      i = search(held, n, i, 1, index[e]);
      place[e] = static_cast<stored_index_t>(i);
    }
    std::fill(place + e, place + k, static_cast<stored_index_t>(n));
  }

  /// First position >= i whose element is not below x; a window of elements stands from i on.
  static index_t advance(const stored_index_t* held, index_t n, index_t i, stored_index_t x) {
    // Arithmetic in place of branches, which nothing could predict: as the elements rise, those
    // below x are counted.
#if defined(__AVX2__)
    const __m256i most = _mm256_set1_epi32(x);
    const auto below = [&](index_t j) {
      return _mm256_cmpgt_epi32(most, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(held + i + j)));
    };
    const auto bits = static_cast<unsigned>(
        _mm256_movemask_epi8(_mm256_packs_epi32(below(0), below(8))));  // two an element
    i += static_cast<unsigned>(__builtin_popcount(bits)) / 2;
    if (bits != ~0U) return i;
#elif defined(__SSE2__)
    const __m128i most = _mm_set1_epi32(x);
    const auto below = [&](index_t j) {
      return _mm_cmpgt_epi32(most, _mm_loadu_si128(reinterpret_cast<const __m128i*>(held + i + j)));
    };
    const __m128i all =
        _mm_packs_epi16(_mm_packs_epi32(below(0), below(4)), _mm_packs_epi32(below(8), below(12)));
    const int bits = _mm_movemask_epi8(all);
    i += __builtin_ctz(~static_cast<unsigned>(bits));
    if (bits != 0xffff) return i;
#else
    for (index_t half = window / 2; half > 0; half /= 2)
      i += static_cast<index_t>(held[i + half - 1] < x) * half;
    if (held[i] >= x) return i;
#endif
    return search(held, n, i, window, x);
  }

  /// The same by growing steps; apart from the short way, which the compiler then keeps in
  /// registers.
  [[gnu::noinline]] static index_t search(const stored_index_t* held, index_t n, index_t i, index_t step,
                                          stored_index_t x) {
    while (i + step < n && held[i + step] < x) {
      i += step;
      step *= 2;
    }
    return std::lower_bound(held + i, held + (std::min)(n, i + step), x) - held;
  }

  /// The arrays of the state move up together, from the top; at new entries all but the positions
  /// are 0.
  template <index_t block, class... X>
  static void open(const stored_index_t* index, const stored_index_t* place, const stored_index_t* added,
                   index_t q, index_t n, stored_index_t* held, X*... moments) {
    index_t end = n;
    for (index_t j = q - 1; j >= 0; --j) {
      const index_t at = place[added[j]];
      const index_t first = at - j;  // [first, end) moves up by j + 1
      const index_t by = j + 1;
      if (by >= block && end >= block) {
        // Full blocks from the top, one at least and the last one too wide: what it writes below
        // its segment lies above `first`, because by >= block, and is written over by the segments
        // that follow.
        do {
          end -= block;
          move_block<block>(held + end, by);
          (move_block<block>(moments + end, by), ...);
        } while (end > first && end >= block);
      }
      if (end > first) {
        move(end - first, held + first, by);
        (move(end - first, moments + first, by), ...);
      }
      held[at] = index[added[j]];
      ((moments[at] = X(0)), ...);
      end = first;
    }
  }

  /// The same for [0, block), by registers, with block <= by.
  template <index_t block, class X>
  static void move_block(X* p, index_t by) {
    for (index_t i = 0; i < block; i += Lanes<X>::count)
      Lanes<X>::load(p + i).store(p + by + i);
  }

  /// p[0 .. size) moves up by `by` places.
  template <class X>
  static void move(index_t size, X* p, index_t by) {
    std::memmove(p + by, p, static_cast<std::size_t>(size) * sizeof(X));
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
