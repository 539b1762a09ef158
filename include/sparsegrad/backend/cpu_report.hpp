// cpu_report: what this processor could multiply, and what the linked libraries do.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "fastest_of.hpp"
#include "host/peak_rate.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What a processor can do and what its backends do, on one thread. Rates are in floating-point
/// operations a second, a multiply-add being two.
struct CpuReport {
  std::string processor;                           ///< the system's name of it, or "unknown"
  std::string instruction_set;                     ///< the widest that was tried: "AVX-512"
  double peak = 0;                                 ///< multiply-adds of float in registers
  std::vector<backend::host::ProductRates> rates;  ///< of each backend
  backend::ProductChoice fastest;                  ///< the fastest backend of each type
  std::string advice;                              ///< what to do about products far below `peak`, or ""
};

namespace detail {

// OpenBLAS's own; null with another BLAS.
static char* openblas_core_name() __attribute__((weakref("openblas_get_corename")));

/// "model name" of the processor that the system counts first.
inline std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.rfind("model name", 0) != 0) continue;
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    if (start != std::string::npos) return line.substr(start);
  }
  return "unknown";
}

/// "123 GFLOP/s"
inline std::string rate_text(double flops) {
  char text[32];
  std::snprintf(text, sizeof text, flops < 1e10 ? "%.1f GFLOP/s" : "%.0f GFLOP/s", flops * 1e-9);
  return text;
}

/// What to do about OpenBLAS's kernels for `core`; `set` is the value of OPENBLAS_CORETYPE, null where it is
/// not set.
inline std::string openblas_advice(const char* core, const char* set, const std::string& wanted) {
  std::string advice = std::string("OpenBLAS took its kernels for ") + core;
  if (set != nullptr && set == wanted) return advice + ", as OPENBLAS_CORETYPE says; install a newer one. ";
  if (set != nullptr) {
    return advice + " because the environment variable OPENBLAS_CORETYPE is " + set +
           "; unset it, or set it to " + wanted + " before the program starts. ";
  }
  return advice + "; set the environment variable OPENBLAS_CORETYPE=" + wanted +
         " before the program starts, or install a newer OpenBLAS. ";
}

/// What to do where `fastest` or the BLAS are slow: below 0.6 of the peak.
inline std::string advice_on(const CpuReport& report) {
  constexpr double enough = 0.6;
  std::string advice;
  for (const backend::host::ProductRates& r : report.rates) {
    if (r.of_float >= enough * report.peak || r.backend != "cpu_blas") continue;
    advice += "The BLAS multiplies floats at " + rate_text(r.of_float) + " a thread, where " +
              report.instruction_set + " allows " + rate_text(report.peak) + ". ";
    if (openblas_core_name != nullptr) {
      advice += openblas_advice(openblas_core_name(), std::getenv("OPENBLAS_CORETYPE"),
                                report.instruction_set == "AVX-512" ? "SkylakeX" : "Haswell");
    } else {
      advice += "Link a BLAS that has kernels for this processor. ";
    }
  }
  double best = 0;
  for (const backend::host::ProductRates& r : report.rates)
    best = r.of_float > best ? r.of_float : best;
  if (best < enough * report.peak) {
    advice += "The fastest products are those of " + report.fastest.of_float + " at " + rate_text(best) +
              ": oneDNN (sparsegrad::onednn) chooses its kernels for the processor, Eigen's follow the "
              "compiler's -march. ";
  }
  if (!advice.empty()) advice.pop_back();
  return advice;
}

}  // namespace detail

/// Measures this processor and the products of the candidates of `Fastest`, a FastestOf, on the
/// calling thread: some tens of milliseconds.
template <class Fastest>
CpuReport cpu_report_of() {
  CpuReport report;
  report.processor = detail::processor_name();
  const backend::host::PeakRate peak = backend::host::peak_rate();
  report.instruction_set = peak.instruction_set;
  report.peak = peak.flops;
  report.rates = Fastest::rates();
  report.fastest = Fastest::fastest(report.rates);
  report.advice = detail::advice_on(report);
  return report;
}

/// The same for backends by name.
///
///     #include <sparsegrad/backend/cpu_report.hpp>
///     std::puts(to_string(cpu_report<backend::CpuBlas, backend::Cpu>()).c_str());
template <Backend... Backends>
CpuReport cpu_report() {
  return cpu_report_of<backend::FastestOf<Backends...>>();
}

/// The report as lines of text, the last one without a line feed.
inline std::string to_string(const CpuReport& report) {
  std::string text = report.processor + ", " + report.instruction_set + ": " +
                     detail::rate_text(report.peak) + " a thread in registers\n";
  for (const backend::host::ProductRates& r : report.rates) {
    text +=
        r.backend + ": float " + detail::rate_text(r.of_float) + ", double " + detail::rate_text(r.of_double);
    if (r.of_bfloat16 > 0) text += ", bfloat16 " + detail::rate_text(r.of_bfloat16);
    text += '\n';
  }
  text += "fastest: " + report.fastest.of_float + " (float), " + report.fastest.of_double + " (double), " +
          report.fastest.of_low_precision + " (16 bits)";
  if (!report.advice.empty()) text += '\n' + report.advice;
  return text;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
