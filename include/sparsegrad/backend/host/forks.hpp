// ForksSince: whether a process is the child of the one that made an object.
#pragma once

#include <atomic>
#include <cstdint>

#include "../../core/abi.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// Tells whether the process was forked off since this was made: a child has none of its parent's
/// threads but the one that forked. Never so where there is no fork.
class ForksSince {
 public:
  ForksSince() : at_(count()) {}
  /// Whether this is a child of the process that made the object.
  bool passed() const { return forks_.load(std::memory_order_relaxed) != at_; }

 private:
  static std::uint32_t count() {
#if defined(__unix__) || defined(__APPLE__)
    static const int watched = pthread_atfork(nullptr, nullptr, [] { forks_.fetch_add(1); });
    (void)watched;
#endif
    return forks_.load();
  }

  inline static std::atomic<std::uint32_t> forks_{0};
  std::uint32_t at_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
