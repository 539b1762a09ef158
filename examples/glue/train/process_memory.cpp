#include "train/process_memory.hpp"

#include <malloc.h>

#include <fstream>
#include <string>

namespace sparsegrad::glue {

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) memory.resident = 1024 * std::stoll(line.substr(6));
    if (line.starts_with("VmHWM:")) memory.peak = 1024 * std::stoll(line.substr(6));
  }
  return memory;
}

index_t available_memory() {
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("MemAvailable:")) return 1024 * std::stoll(line.substr(13));
  }
  return 0;
}

bool reset_peak_memory() {
  // "5" resets the high-water mark of the resident set (proc(5)).
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

void return_freed_memory() {
  // Without this the threshold above which memory comes from mmap grows with each free.
  mallopt(M_MMAP_THRESHOLD, 1 << 18);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  malloc_trim(0);
}

}  // namespace sparsegrad::glue
