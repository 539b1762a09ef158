// HostBackend: what the program computes with on the CPU.
#pragma once

#include <string>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#if defined(FINETUNE_ONEDNN)
#include <sparsegrad/backend/cpu_onednn.hpp>
#endif
#include <sparsegrad/backend/cpu_report.hpp>
#include <sparsegrad/backend/fastest_of.hpp>

namespace sparsegrad::finetune {

/// Products of oneDNN where the program was built with it, of the BLAS or of Eigen. A context measures nothing by itself:
/// which products a run takes is decided once, for all its contexts (training/products.hpp).
#if defined(FINETUNE_ONEDNN)
using HostProducts = backend::FastestOf<backend::CpuOneDnn, backend::CpuBlas, backend::Cpu>;
#else
using HostProducts = backend::FastestOf<backend::CpuBlas, backend::Cpu>;
#endif

struct HostBackend : HostProducts {
  /// The products of one backend for all types.
  static backend::ProductChoice all_of(const std::string& name) { return {name, name, name}; }

  /// Takes the first backend's products where no others are named.
  class Context : public HostProducts::Context {
   public:
    explicit Context(int threads = 0, bool deterministic = false,
                     const backend::ProductChoice& choice = all_of(names().front()))
        : HostProducts::Context(threads, deterministic, choice) {}
  };
};

}  // namespace sparsegrad::finetune
