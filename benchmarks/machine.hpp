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

/// oneDNN's own, whose result begins with three ints; null without it.
static const int* linked_onednn() __attribute__((weakref("dnnl_version")));

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

/// "" where the program has no oneDNN.
inline std::string onednn() {
  if (linked_onednn == nullptr) return "";
  const int* v = linked_onednn();
  return "oneDNN " + std::to_string(v[0]) + "." + std::to_string(v[1]) + "." + std::to_string(v[2]);
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

/// Whether the processor says that it has an extension: "amx_bf16".
inline bool has_instructions(const std::string& extension) {
  std::istringstream all(proc_value("/proc/cpuinfo", "flags") + " " +
                         proc_value("/proc/cpuinfo", "Features"));
  for (std::string one; all >> one;)
    if (one == extension) return true;
  return false;
}

/// The widest extension that products of matrices use: "amx-bf16", "avx512-bf16", "avx512", "avx2", "sve-bf16", "sve",
/// "neon-bf16", "neon" or "x86-64".
inline std::string instruction_set() {
#if defined(__aarch64__)
  const std::string wide = has_instructions("sve") ? "sve" : "neon";
  return wide + (has_instructions("bf16") ? "-bf16" : "");
#else
  if (has_instructions("amx_bf16")) return "amx-bf16";
  if (has_instructions("avx512_bf16")) return "avx512-bf16";
  if (has_instructions("avx512f")) return "avx512";
  return has_instructions("avx2") ? "avx2" : "x86-64";
#endif
}

/// "amd-epyc-family-26-model-2-avx512-bf16-2-cores": a file name for the machine. Where a hypervisor hides the
/// processor's name, family, model and instructions tell it from others.
inline std::string machine_slug() {
  const auto known = [](const std::string& what, const std::string& value) {
    return value == "unknown" ? std::string() : what + value;
  };
  const std::string text = proc_value("/proc/cpuinfo", "model name") +
                           known(" family ", proc_value("/proc/cpuinfo", "cpu family")) +
                           known(" model ", proc_value("/proc/cpuinfo", "model\t")) + " " + instruction_set();
  std::string slug;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0) {
      slug += static_cast<char>(std::tolower(u));
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  return slug + "-" + std::to_string(core_count()) + "-cores";
}

/// All of it, for pages that scripts write.
template <class Json>
Json machine_json() {
  return {{"processor", cpu_name()}, {"instruction_set", instruction_set()},
          {"cores", core_count()},   {"memory", proc_value("/proc/meminfo", "MemTotal")},
          {"compiler", compiler()},  {"blas", blas()},
          {"onednn", onednn()},      {"eigen", eigen()},
          {"slug", machine_slug()}};
}

}  // namespace sparsegrad::bench
