// What a saved state's moments must be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/number.hpp"
#include "core_optimizer.hpp"
#include "moment_layout.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Most steps that a saved state may have taken: exact as a double, and far from the end of the type.
inline constexpr std::int64_t most_saved_steps = std::int64_t{1} << 53;
/// Most steps that a saved state may have counted of one entry: half of what the type can count.
inline constexpr std::int32_t most_saved_count = std::int32_t{1} << 30;

/// Throws ValueError, saying what is wrong, unless the state is a valid one for a MomentStore of
/// these extents and this layout: steps and counts in [0, most_saved_...], rising positions in range,
/// numbers as many as positions, v >= 0 or NaN, a form (compact or dense) that the capacity and the
/// overflow policy allow.
template <class T>
void require_moments(const OptimizerState<T>& s, index_t rows, index_t cols, const MomentLayout& layout) {
  if (s.steps < 0 || s.steps > most_saved_steps)
    throw ValueError("the saved state has step " + std::to_string(s.steps) + ", expected >= 0" +
                     (s.steps < 0 ? "" : " and at most 2^53"));
  const std::size_t entries = s.compact ? s.index.size() : static_cast<std::size_t>(rows * cols);
  const auto require_count = [&](const char* what, std::size_t found, std::size_t expected) {
    if (found != expected) {
      throw ValueError("the saved state has " + std::to_string(found) + " numbers in " + what +
                       ", expected " + std::to_string(expected));
    }
  };
  require_count("m", s.array("m").size(), entries);
  const std::vector<T>* v = layout.second ? &s.array("v") : nullptr;
  if (v != nullptr) require_count("v", v->size(), entries);
  require_count("count", s.count.size(), layout.counts ? entries : 0);
  if (!s.compact) require_count("index", s.index.size(), 0);
  const bool may_be_compact = layout.starts_compact<T>(rows, cols);
  if (!s.compact && layout.overflow != Overflow::go_dense && may_be_compact) {
    throw ValueError(std::string("the saved state is dense, expected compact under overflow policy ") +
                     to_string(layout.overflow));
  }
  if (s.compact && static_cast<index_t>(entries) > layout.capacity) {
    throw ValueError("the saved state has " + std::to_string(entries) +
                     " entries, expected at most its capacity " + std::to_string(layout.capacity));
  }
  for (std::size_t e = 0; e < s.index.size(); ++e) {
    if (s.index[e] < 0 || s.index[e] >= rows * cols || (e > 0 && s.index[e] <= s.index[e - 1])) {
      throw ValueError("the saved state has position " + std::to_string(s.index[e]) + " at entry " +
                       std::to_string(e) + ", expected strictly rising positions in [0, " +
                       std::to_string(rows * cols) + ")");
    }
  }
  for (std::size_t e = 0; e < entries; ++e) {
    if (v != nullptr && (*v)[e] < T(0)) {
      throw ValueError("the saved state has v = " + number_text((*v)[e]) + " at entry " + std::to_string(e) +
                       ", expected >= 0");
    }
    if (layout.counts && (s.count[e] < 0 || s.count[e] > most_saved_count)) {
      throw ValueError("the saved state has count " + std::to_string(s.count[e]) + " at entry " +
                       std::to_string(e) + ", expected >= 0" + (s.count[e] < 0 ? "" : " and at most 2^30"));
    }
  }
  if (s.compact && !may_be_compact) {
    throw ValueError("the saved state is compact, expected dense: with capacity " +
                     std::to_string(layout.capacity) + " that is the smaller form");
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
