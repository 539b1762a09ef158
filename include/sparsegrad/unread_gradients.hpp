// UnreadGradients: gradients of an engine that stand in one place, and so are the last one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/config.hpp"
#include "core/error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Finds two members of a group whose borrowed gradients begin at the same address. An engine with
/// one buffer for all its matrices has overwritten the first with the second before the step.
class UnreadGradients {
 public:
  /// Takes the memory for this many members.
  void reserve(index_t members) { places_.reserve(static_cast<std::size_t>(members)); }

  /// Throws ValueError, naming both members, when two have an address in common that the step still
  /// reads.
  template <class Members>
  void require_apart(const Members& members) {
    places_.clear();
    for (const auto& m : members) {
      const void* place = m.is_selected() ? nullptr : m.source->unread_gradient();
      if (place != nullptr) places_.push_back({place, m.number});
    }
    std::sort(places_.begin(), places_.end(), [](const Place& a, const Place& b) {
      return a.first == b.first ? a.second < b.second : std::less<>()(a.first, b.first);
    });
    const auto twice = std::adjacent_find(places_.begin(), places_.end(),
                                          [](const Place& a, const Place& b) { return a.first == b.first; });
    if (twice == places_.end()) return;
    const auto title = [&](const Place& place) {
      return members[static_cast<std::size_t>(place.second)].title();
    };
    throw ValueError(title(twice[1]) + ": its dW lies where that of " + title(twice[0]) +
                     " does, expected memory of its own until the step, which reads it");
  }

 private:
  using Place = std::pair<const void*, index_t>;
  std::vector<Place> places_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
