// OpenTickets: what was started and is to be awaited once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "../core/error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// The numbers of calls that were started and not awaited yet: rising, from 1.
class OpenTickets {
 public:
  /// A new number.
  std::int64_t open() {
    open_.push_back(++last_);
    return last_;
  }
  /// It is awaited now. Throws StateError, with `what` it is of, for a number that is not open.
  void close(std::int64_t ticket, const char* what) {
    const auto found = std::lower_bound(open_.begin(), open_.end(), ticket);
    if (found != open_.end() && *found == ticket) {
      open_.erase(found);
      return;
    }
    const bool known = ticket >= 1 && ticket <= last_;
    throw StateError("wait: " + std::string(what) + " " + std::to_string(ticket) + " was " +
                     (known ? "awaited already, or given up; each is awaited once"
                            : "never started; " + std::to_string(last_) + " were, from 1"));
  }
  /// Gives up all that are open.
  void clear() { open_.clear(); }
  /// How many are open.
  std::size_t count() const { return open_.size(); }

 private:
  std::int64_t last_ = 0;
  std::vector<std::int64_t> open_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
