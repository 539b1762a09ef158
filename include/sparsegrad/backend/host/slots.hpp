// Merging a sparse gradient's support into the sorted support of a compact optimizer state.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../reference.hpp"

namespace sparsegrad::backend::host {

/// The primitives `find_slots` and `open_slots` of the contract (core/backend.hpp).
struct Slots : Reference {
  /// Four searches run side by side: one alone waits for its own last load.
  static index_t find_slots(Context&, const stored_index_t* index, index_t k, const stored_index_t* held,
                            index_t n, stored_index_t* slot, stored_index_t* fresh) {
    constexpr index_t lanes = 4;
    const index_t part = k / lanes;
    index_t at[lanes];
    for (index_t lane = 0; lane < lanes; ++lane)
      at[lane] = part == 0 ? 0 : std::lower_bound(held, held + n, index[lane * part]) - held;
    for (index_t e = 0; e < part; ++e) {
      for (index_t lane = 0; lane < lanes; ++lane) {
        at[lane] = advance(held, n, at[lane], index[lane * part + e]);
        slot[lane * part + e] = static_cast<stored_index_t>(at[lane]);
      }
    }
    index_t last =
        k == 0 ? 0 : std::lower_bound(held, held + n, index[lanes * part < k ? lanes * part : k - 1]) - held;
    for (index_t e = lanes * part; e < k; ++e) {
      last = advance(held, n, last, index[e]);
      slot[e] = static_cast<stored_index_t>(last);
    }

    if (n == 0) {
      for (index_t e = 0; e < k; ++e)
        slot[e] = fresh[e] = static_cast<stored_index_t>(e);
      return k;
    }
    // Without branches: whether an entry is new follows no pattern. Past the end stands no equal: the last
    // element is smaller.
    index_t q = 0;
    for (index_t e = 0; e < k; ++e) {
      const index_t place = slot[e];
      const auto differ = static_cast<std::uint32_t>(index[e] ^ held[std::min(place, n - 1)]);
      slot[e] = static_cast<stored_index_t>(place + q);
      fresh[q] = static_cast<stored_index_t>(e);
      q += static_cast<index_t>((differ | (0U - differ)) >> 31);  // differ != 0
    }
    return q;
  }

  template <class T>
  static void open_slots(Context&, const stored_index_t* index, const stored_index_t* slot,
                         const stored_index_t* fresh, index_t q, stored_index_t* held, index_t n, T* m, T* v,
                         std::int32_t* count) {
    index_t end = n;
    for (index_t j = q - 1; j >= 0; --j) {
      const index_t place = slot[fresh[j]];
      const index_t first = place - j;  // held[first .. end) moves up by j + 1
      shift(held, first, end, j + 1);
      shift(m, first, end, j + 1);
      shift(v, first, end, j + 1);
      held[place] = index[fresh[j]];
      m[place] = T(0);
      v[place] = T(0);
      if (count != nullptr) {
        shift(count, first, end, j + 1);
        count[place] = 0;
      }
      end = first;
    }
  }

 private:
  /// First position >= i whose element is not below x.
  static index_t advance(const stored_index_t* held, index_t n, index_t i, stored_index_t x) {
    constexpr index_t window = 15;
    if (i + window <= n) {
      // Arithmetic in place of branches, which nothing could predict.
      i += static_cast<index_t>(held[i + 7] < x) * 8;
      i += static_cast<index_t>(held[i + 3] < x) * 4;
      i += static_cast<index_t>(held[i + 1] < x) * 2;
      i += static_cast<index_t>(held[i] < x);
      if (i == n || held[i] >= x) return i;
    }
    index_t step = window;
    while (i + step < n && held[i + step] < x) {
      i += step;
      step *= 2;
    }
    return std::lower_bound(held + i, held + std::min(n, i + step), x) - held;
  }

  /// p[first .. end) moves up by `by` places. Elements below `first` have not been moved yet and stay whole.
  template <class X>
  static void shift(X* p, index_t first, index_t end, index_t by) {
    constexpr index_t block = 16;
    if (by < block || end < block) {
      std::memmove(p + first + by, p + first, static_cast<std::size_t>(end - first) * sizeof(X));
      return;
    }
    // Whole blocks from the top, the last one too wide: what it writes below its segment lies above `first`,
    // because by >= block, and is written over by the segments that follow.
    while (end > first) {
      std::memcpy(p + end + by - block, p + end - block, static_cast<std::size_t>(block) * sizeof(X));
      end -= block;
      if (end < block && end > first) {
        std::memmove(p + first + by, p + first, static_cast<std::size_t>(end - first) * sizeof(X));
        return;
      }
    }
  }
};

}  // namespace sparsegrad::backend::host
