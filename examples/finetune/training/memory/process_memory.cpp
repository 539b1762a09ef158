#include "training/memory/process_memory.hpp"

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace sparsegrad::finetune {

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) memory.resident = 1024 * std::stoll(line.substr(6));
    if (line.starts_with("VmHWM:")) memory.peak = 1024 * std::stoll(line.substr(6));
  }
  return memory;
}

namespace {

/// The number of bytes that stands behind `name` in one of proc's tables of kB.
std::optional<index_t> table_bytes(const char* file, const std::string& name) {
  std::ifstream table(file);
  for (std::string line; std::getline(table, line);)
    if (line.starts_with(name)) return 1024 * std::stoll(line.substr(name.size()));
  return std::nullopt;
}

/// The number that a file holds; none where there is no such file or it says "max".
std::optional<index_t> file_number(const std::string& path) {
  std::ifstream file(path);
  index_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

/// What the control group (version 2) still allows: containers and batch systems set it.
std::optional<index_t> left_in_control_group() {
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::")) continue;
    const std::string folder = "/sys/fs/cgroup" + line.substr(3);
    const std::optional<index_t> most = file_number(folder + "/memory.max");
    const std::optional<index_t> used = file_number(folder + "/memory.current");
    if (most && used) return *most - *used;
  }
  return std::nullopt;
}

/// What the limit on the address space (ulimit -v) still allows.
std::optional<index_t> left_of_address_space() {
  rlimit limit{};
  const std::optional<index_t> used = table_bytes("/proc/self/status", "VmSize:");
  if (!used || getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  return static_cast<index_t>(limit.rlim_cur) - *used;
}

}  // namespace

index_t available_memory() {
  constexpr index_t unknown = std::numeric_limits<index_t>::max();
  index_t least = unknown;
  for (const std::optional<index_t> left :
       {table_bytes("/proc/meminfo", "MemAvailable:"), left_in_control_group(), left_of_address_space()})
    if (left) least = std::min(least, *left);
  return least == unknown ? 0 : std::max<index_t>(least, 1);
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

}  // namespace sparsegrad::finetune
