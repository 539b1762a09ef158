// What a page of results says of the machine.
#pragma once

#include <Eigen/Core>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

#include <sparsegrad/backend/host/available_threads.hpp>

// OpenBLAS alone has it; null with another BLAS.
extern "C" __attribute__((weak)) char* openblas_get_config(void);
extern "C" __attribute__((weak)) char* openblas_get_corename(void);

namespace sparsegrad::bench {

/// Value of the first line "key : value" in a file of /proc, or "unknown".
inline std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "unknown" : line.substr(start);
  }
  return "unknown";
}

/// Those that a measurement can use.
inline int core_count() {
  return backend::host::available_threads();
}

inline std::string cpu_name() {
  const std::string family = proc_value("/proc/cpuinfo", "cpu family");
  const std::string model = proc_value("/proc/cpuinfo", "model\t");
  return proc_value("/proc/cpuinfo", "model name") + " (family " + family + ", model " + model + ")";
}

inline std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

inline std::string blas() {
  if (openblas_get_config == nullptr) return "not OpenBLAS; version unknown";
  std::string text = openblas_get_config();
  if (openblas_get_corename != nullptr) text += std::string(", kernels for ") + openblas_get_corename();
  return text;
}

inline std::string eigen() {
  return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
         std::to_string(EIGEN_MINOR_VERSION) + ", " + Eigen::SimdInstructionSetsInUse();
}

/// Load averages of the last 1, 5 and 15 minutes.
inline std::string load() {
  std::ifstream in("/proc/loadavg");
  std::string one = "?", five = "?", fifteen = "?";
  in >> one >> five >> fifteen;
  return one + " " + five + " " + fifteen;
}

inline std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

/// "amd-epyc-2-cores": a file name for the machine.
inline std::string machine_slug() {
  std::string slug;
  for (const char c : proc_value("/proc/cpuinfo", "model name")) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0) {
      slug += static_cast<char>(std::tolower(u));
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  if (!slug.empty() && slug.back() != '-') slug += '-';
  return slug + std::to_string(core_count()) + "-cores";
}

}  // namespace sparsegrad::bench
