// HostBackend: what the program computes with on the CPU.
#pragma once

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/cpu_report.hpp>
#include <sparsegrad/backend/fastest_of.hpp>

namespace sparsegrad::glue {

/// Products of the BLAS or of Eigen, one of them chosen when a context is made. A context measures nothing by itself:
/// which products a run takes is decided once, for all its contexts (training/products.hpp).
struct HostBackend : backend::FastestOf<backend::CpuBlas, backend::Cpu> {
  using Fastest = backend::FastestOf<backend::CpuBlas, backend::Cpu>;

  /// What this processor could multiply, and what the backends do. Measured.
  static CpuReport report() { return cpu_report<backend::CpuBlas, backend::Cpu>(); }
  /// The products of one backend for all types.
  static backend::ProductChoice all_of(const std::string& name) { return {name, name, name}; }

  /// Takes the first backend's products where no others are named.
  class Context : public Fastest::Context {
   public:
    explicit Context(int threads = 0, bool deterministic = false,
                     const backend::ProductChoice& choice = all_of(names().front()))
        : Fastest::Context(threads, deterministic, choice) {}
  };
};

}  // namespace sparsegrad::glue
