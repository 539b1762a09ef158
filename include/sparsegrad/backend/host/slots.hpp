// Merging a sparse gradient's support into the sorted support of a compact optimizer state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../reference.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sparsegrad::backend::host {

/// The primitives `find_slots` and `open_slots` of the contract (core/backend.hpp).
struct Slots : Reference {
  /// Four parts of the support side by side: one search alone waits for its own last load.
  static index_t find_slots(Context&, const stored_index_t* index, index_t k, const stored_index_t* held,
                            index_t n, stored_index_t* slot, stored_index_t* fresh) {
    if (n == 0) {
      for (index_t e = 0; e < k; ++e)
        slot[e] = fresh[e] = static_cast<stored_index_t>(e);
      return k;
    }
    constexpr index_t lanes = 4;
    const index_t part = (k + lanes - 1) / lanes;
    const index_t short_part = std::max<index_t>(0, k - (lanes - 1) * part);  // of the last lane
    index_t at[lanes] = {};
    index_t found[lanes] = {};  // new entries of a lane, listed from fresh[lane * part] on
    for (index_t lane = 0; lane < lanes && lane * part < k; ++lane)
      at[lane] = std::lower_bound(held, held + n, index[lane * part]) - held;
    const auto step = [&](index_t lane, index_t e) __attribute__((always_inline)) {
      const stored_index_t x = index[e];
      const index_t place = advance(held, n, at[lane], x);
      at[lane] = place;
      slot[e] = static_cast<stored_index_t>(place + found[lane]);
      // Without branches: whether an entry is new follows no pattern. Past the end stands no equal: the last element is
      // smaller. A list never runs ahead of its lane.
      fresh[lane * part + found[lane]] = static_cast<stored_index_t>(e);
      found[lane] += static_cast<index_t>(held[std::min(place, n - 1)] != x);
    };
    for (index_t e = 0; e < short_part; ++e) {
      step(0, e);
      step(1, part + e);
      step(2, 2 * part + e);
      step(3, 3 * part + e);
    }
    for (index_t lane = 0; lane < lanes; ++lane)
      for (index_t e = lane * part + short_part; e < std::min(k, (lane + 1) * part); ++e)
        step(lane, e);

    index_t q = found[0];
    for (index_t lane = 1; lane < lanes && lane * part < k; ++lane) {
      const index_t end = std::min(k, (lane + 1) * part);
      for (index_t e = lane * part; e < end; ++e)
        slot[e] += static_cast<stored_index_t>(q);
      std::copy(fresh + lane * part, fresh + lane * part + found[lane], fresh + q);
      q += found[lane];
    }
    return q;
  }

  template <class T>
  static void open_slots(Context&, const stored_index_t* index, const stored_index_t* slot,
                         const stored_index_t* fresh, index_t q, stored_index_t* held, index_t n, T* m, T* v,
                         std::int32_t* count) {
    // Blocks as long as most segments between two new entries: how many of them a segment takes is a branch that
    // nothing could predict.
    const auto open_by = [&](auto... moments) {
      if (n < 4 * q) {
        open<8>(index, slot, fresh, q, n, held, moments...);
      } else {
        open<16>(index, slot, fresh, q, n, held, moments...);
      }
    };
    if (count == nullptr) {
      open_by(m, v);
    } else {
      open_by(m, v, count);
    }
  }

 private:
  /// First position >= i whose element is not below x.
  static index_t advance(const stored_index_t* held, index_t n, index_t i, stored_index_t x) {
    // Arithmetic in place of branches, which nothing could predict.
#if defined(__SSE2__)
    constexpr index_t window = 16;
    if (i + window <= n) {
      const __m128i most = _mm_set1_epi32(x);
      const auto below = [&](index_t j) {
        return _mm_cmpgt_epi32(most, _mm_loadu_si128(reinterpret_cast<const __m128i*>(held + i + j)));
      };
      const __m128i all =
          _mm_packs_epi16(_mm_packs_epi32(below(0), below(4)), _mm_packs_epi32(below(8), below(12)));
      const int ones = _mm_movemask_epi8(all);  // a bit an element: those below x come first
      i += __builtin_ctz(~static_cast<unsigned>(ones));
      if (ones != 0xffff) return i;
    }
#else
    constexpr index_t window = 15;
    if (i + window <= n) {
      i += static_cast<index_t>(held[i + 7] < x) * 8;
      i += static_cast<index_t>(held[i + 3] < x) * 4;
      i += static_cast<index_t>(held[i + 1] < x) * 2;
      i += static_cast<index_t>(held[i] < x);
      if (i == n || held[i] >= x) return i;
    }
#endif
    return search(held, n, i, window, x);
  }

  /// The same by growing steps; apart from the short way, which the compiler then keeps in registers.
  [[gnu::noinline]] static index_t search(const stored_index_t* held, index_t n, index_t i, index_t step,
                                          stored_index_t x) {
    while (i + step < n && held[i + step] < x) {
      i += step;
      step *= 2;
    }
    return std::lower_bound(held + i, held + std::min(n, i + step), x) - held;
  }

  /// The arrays of the state move up together, from the top; at new entries all but the positions are 0.
  template <index_t block, class... X>
  static void open(const stored_index_t* index, const stored_index_t* slot, const stored_index_t* fresh,
                   index_t q, index_t n, stored_index_t* held, X*... moments) {
    index_t end = n;
    for (index_t j = q - 1; j >= 0; --j) {
      const index_t place = slot[fresh[j]];
      const index_t first = place - j;  // [first, end) moves up by j + 1
      const index_t by = j + 1;
      if (by >= block && end >= block) {
        // Whole blocks from the top, one at least and the last one too wide: what it writes below its segment lies
        // above `first`, because by >= block, and is written over by the segments that follow.
        do {
          end -= block;
          std::memcpy(held + end + by, held + end, block * sizeof *held);
          (std::memcpy(moments + end + by, moments + end, block * sizeof *moments), ...);
        } while (end > first && end >= block);
      }
      if (end > first) {
        move(end - first, held + first, by);
        (move(end - first, moments + first, by), ...);
      }
      held[place] = index[fresh[j]];
      ((moments[place] = X(0)), ...);
      end = first;
    }
  }

  /// p[0 .. size) moves up by `by` places.
  template <class X>
  static void move(index_t size, X* p, index_t by) {
    std::memmove(p + by, p, static_cast<std::size_t>(size) * sizeof(X));
  }
};

}  // namespace sparsegrad::backend::host
