// HomeProcess: which process made a handle, so that a forked child is told that its parent did.
#pragma once

#include <string>

#ifndef _WIN32
#include <unistd.h>
#endif

#include <sparsegrad/core/error.hpp>

namespace sparsegrad::c {

/// The process that makes it. A forked child has a copy of its parent's handles, but none of the threads that they
/// wait for, and what another thread was changing at that moment is half done.
class HomeProcess {
 public:
  /// Whether this is that process. Always so where there is no fork.
  bool is_here() const { return number() == number_; }
  /// Throws StateError in another process than this one.
  void require_here(const char* what) const {
    if (is_here()) return;
    throw StateError(std::string("the ") + what + " was made by process " + std::to_string(number_) +
                     ", of which this one (" + std::to_string(number()) +
                     ") is a fork that has none of its threads: make a context, and what is made with it, "
                     "anew in the child");
  }

 private:
  static long number() {
#ifdef _WIN32
    return 0;
#else
    return static_cast<long>(getpid());
#endif
  }

  long number_ = number();
};

}  // namespace sparsegrad::c
