// The rate of multiply-adds that this processor's instruction set allows.
#pragma once

#include <algorithm>
#include <chrono>

#include "../../core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// What one thread can multiply and add in registers.
struct PeakRate {
  const char* instruction_set = "";  ///< the widest that the processor has, of those tried
  double flops = 0;                  ///< floating-point operations of float a second
};

namespace detail {

/// Seconds of `rounds` rounds of 12 independent multiply-adds, as many as a processor has begun and
/// not ended, by latency and units. A macro, because a function for another instruction set takes in
/// none that is not; variables of their own, because an array stays in memory under -O1.
#define SPARSEGRAD_PEAK_SECONDS(name, bytes, attribute)                       \
  attribute inline double name(int rounds, float seed) {                      \
    typedef float V __attribute__((vector_size(bytes)));                      \
    const V by = V{} + (seed * 0.5F);                                         \
    V a = by, b = a + by, c = b + by, d = c + by, e = d + by, f = e + by;     \
    V g = f + by, h = g + by, i = h + by, j = i + by, k = j + by, l = k + by; \
    const auto start = std::chrono::steady_clock::now();                      \
    for (int round = 0; round < rounds; ++round) {                            \
      a = a * by + by, b = b * by + by, c = c * by + by, d = d * by + by;     \
      e = e * by + by, f = f * by + by, g = g * by + by, h = h * by + by;     \
      i = i * by + by, j = j * by + by, k = k * by + by, l = l * by + by;     \
    }                                                                         \
    const auto end = std::chrono::steady_clock::now();                        \
    const V all = a + b + c + d + e + f + g + h + i + j + k + l;              \
    volatile float keep = all[0];                                             \
    static_cast<void>(keep);                                                  \
    return std::chrono::duration<double>(end - start).count();                \
  }

#if defined(__x86_64__)
SPARSEGRAD_PEAK_SECONDS(peak_seconds_64, 64, __attribute__((target("avx512f"))))
SPARSEGRAD_PEAK_SECONDS(peak_seconds_32, 32, __attribute__((target("avx2,fma"))))
#endif
SPARSEGRAD_PEAK_SECONDS(peak_seconds_16, 16, )
#undef SPARSEGRAD_PEAK_SECONDS

}  // namespace detail

/// Measures it, in about 2 ms: the best of a few runs.
inline PeakRate peak_rate() {
  double (*seconds)(int, float) = detail::peak_seconds_16;
  int width = 4;
  PeakRate peak;
#if defined(__x86_64__)
  peak.instruction_set = "SSE2";
  if (__builtin_cpu_supports("avx512f")) {
    peak.instruction_set = "AVX-512";
    seconds = detail::peak_seconds_64;
    width = 16;
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    peak.instruction_set = "AVX2";
    seconds = detail::peak_seconds_32;
    width = 8;
  }
#elif defined(__aarch64__)
  peak.instruction_set = "NEON";
#else
  peak.instruction_set = "vectors of 16 bytes";
#endif
  constexpr int rounds = 10000;
  double best = seconds(rounds, 1);
  for (int run = 0; run < 20; ++run)
    best = (std::min)(best, seconds(rounds, 1));
  peak.flops = 2.0 * 12 * width * rounds / (std::max)(best, 1e-9);
  return peak;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
