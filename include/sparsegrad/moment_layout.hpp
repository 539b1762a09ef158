// MomentLayout: which moments an optimizer keeps, and for how many entries.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "core/config.hpp"
#include "core/error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What a compact state does when a gradient's new entries exceed its capacity.
enum class Overflow {
  /// Becomes dense, for good. The only step that allocates.
  go_dense,
  /// Forgets as many entries as needed: those with the smallest |m|, of equals the highest
  /// position, never one of S. An entry met again later starts at moments (and a count) of 0.
  evict_smallest,
  /// CapacityError; nothing has changed.
  error,
};

/// "go_dense", "evict_smallest", "error"
inline const char* to_string(Overflow overflow) {
  switch (overflow) {
    case Overflow::go_dense:
      return "go_dense";
    case Overflow::evict_smallest:
      return "evict_smallest";
    case Overflow::error:
      return "error";
  }
  return "?";
}

/// What a MomentStore holds of an entry, and of how many entries.
struct MomentLayout {
  index_t capacity = 0;  ///< entries of a compact store; 0: dense
  /// What becomes of new entries when a compact state is full.
  Overflow overflow = Overflow::evict_smallest;
  bool second = true;   ///< a second moment v beside m
  bool counts = false;  ///< the steps that each entry has met

  /// Whether a store of a core of these extents, with moments of type T, begins compact: when that
  /// takes fewer bytes.
  template <class T>
  bool starts_compact(index_t rows, index_t cols) const {
    const std::size_t moments = (second ? 2 : 1) * sizeof(T);
    const auto entry = static_cast<index_t>(moments + (counts ? sizeof(std::int32_t) : 0));
    const auto position = static_cast<index_t>(sizeof(stored_index_t));
    return capacity > 0 && capacity < rows * cols && capacity * (entry + position) < rows * cols * entry;
  }
};

/// Throws ValueError unless capacity >= 0 and rows * cols < 2^31.
inline void require_moment_extents(index_t rows, index_t cols, index_t capacity) {
  if (capacity < 0)
    throw ValueError("capacity is " + std::to_string(capacity) + ", expected >= 0 (0: dense)");
  const index_t limit = (std::numeric_limits<stored_index_t>::max)();
  if (rows < 0 || cols < 0 || (rows > 0 && cols > limit / rows)) {
    throw ValueError("an optimizer of a core of " + shape_text(rows, cols) +
                     " has positions beyond 2^31 - 1, which 32-bit indices cannot hold");
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
