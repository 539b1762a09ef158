// How many threads may compute at the same time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "../../core/config.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

namespace detail {

/// Processors that the calling thread may run on (taskset, cpusets); those of the machine where the
/// system does not tell. At least 1.
inline int allowed_processors() {
#if defined(__linux__)
  // The kernel refuses a set that is smaller than its own.
  for (std::size_t most = CPU_SETSIZE; most <= 64 * CPU_SETSIZE; most *= 2) {
    const auto release = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(release)> allowed(CPU_ALLOC(most), release);
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    if (allowed != nullptr && sched_getaffinity(0, bytes, allowed.get()) == 0)
      return (std::max)(1, CPU_COUNT_S(bytes, allowed.get()));
  }
#endif
  return (std::max)(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Processors' worth of time in a quota of `quota` in each `period`, rounded up: threads beyond a
/// whole number share what is left. No quota: the largest int.
inline int processors_of(std::int64_t quota, std::int64_t period) {
  constexpr int none = (std::numeric_limits<int>::max)();
  if (quota <= 0 || period <= 0) return none;
  const std::int64_t whole = quota / period + (quota % period != 0 ? 1 : 0);
  return static_cast<int>(std::min<std::int64_t>(whole, none));
}

/// Whether a list with commas has the word.
inline bool contains(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

/// Version 2: cpu.max, "max 100000" or "150000 100000".
inline int quota_of_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  std::int64_t period = 0;
  std::int64_t value = 0;
  if (!(file >> quota >> period) || !(std::istringstream(quota) >> value)) value = 0;
  return processors_of(value, period);
}

/// Version 1: cpu.cfs_quota_us, -1 or microseconds in each cpu.cfs_period_us.
inline int quota_of_v1(const std::string& folder) {
  std::int64_t quota = 0;
  std::int64_t period = 0;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return processors_of(quota, period);
}

/// The least `quota_of(folder)` of the group `path` and of those that it is in, up to the mount's
/// root: in a container the path may be one of the host's, of which the root alone is seen.
template <class QuotaOf>
int least_quota(const std::string& mount, std::string path, QuotaOf quota_of) {
  int least = quota_of(mount);
  while (path.size() > 1 && path.front() == '/') {
    least = (std::min)(least, quota_of(mount + path));
    path.resize(path.rfind('/'));
  }
  return least;
}

/// Processors' worth of time that the control groups of this process leave it, read from
/// ROOT/proc/self/cgroup and ROOT/sys/fs/cgroup; the largest int where there is no quota.
inline int quota_processors(const std::string& root) {
  int least = (std::numeric_limits<int>::max)();
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mount = root + "/sys/fs/cgroup";
  // hierarchy:controllers:path, without controllers for version 2.
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      // Beside version 1 it is mounted in a folder of its own.
      for (const char* folder : {"", "/unified"})
        least = (std::min)(least, least_quota(mount + folder, path, quota_of_v2));
    } else if (contains(controllers, "cpu")) {
      for (const std::string& folder : {std::string("cpu"), controllers})
        least = (std::min)(least, least_quota(mount + "/" + folder, path, quota_of_v1));
    }
  }
  return least;
}

}  // namespace detail

/// Number of threads that may compute at the same time, at least 1: the processors that this thread
/// may run on, or fewer where a control group's quota (cpu.max of cgroup v2, cpu.cfs_quota_us of
/// v1) gives less time than theirs. More threads would wait for one another. `root` is the folder
/// in which `proc` and `sys` lie.
inline int available_threads(const std::string& root = "") {
  return (std::min)(detail::allowed_processors(), detail::quota_processors(root));
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
