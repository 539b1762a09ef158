// The process's peak of resident memory between two points of a program.
#pragma once

#include <malloc.h>

#include <fstream>
#include <sstream>
#include <string>

#include "machine.hpp"

namespace sparsegrad::bench {

/// How far the resident memory of this process rises above what it is at construction. Linux counts the peak; writing
/// "5" to clear_refs makes it count anew. Where that is refused the peak since the program's start stands, a bound from above.
class PeakMemory {
 public:
  PeakMemory() {
    malloc_trim(0);  // memory that earlier cases freed would serve unseen
    std::ofstream("/proc/self/clear_refs") << "5";
    start_ = status_bytes("VmRSS");
  }
  double beyond_start() const { return status_bytes("VmHWM") - start_; }

 private:
  static double status_bytes(const std::string& key) {
    std::istringstream value(proc_value("/proc/self/status", key));
    double kilobytes = 0;
    value >> kilobytes;
    return 1024 * kilobytes;
  }
  double start_ = 0;
};

}  // namespace sparsegrad::bench
