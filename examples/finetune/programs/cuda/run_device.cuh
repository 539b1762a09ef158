// What a run asks of a GPU.
#pragma once

#include <nlohmann/json.hpp>
#include <sparsegrad/sparsegrad_cuda.cuh>

#include "training/run_device.hpp"

namespace sparsegrad::finetune {

/// Memory is what is in use on the GPU, by this and other programs; its peak is the most of the moments at which it was
/// asked for.
template <>
struct RunDevice<backend::Cuda> {
  using Context = backend::Cuda::Context;

  static Context make_context(const TrainOptions& options) {
    backend::cuda::ContextOptions context;
    context.tf32 = options.tf32;
    return Context(context);
  }
  static index_t available_memory() { return memory().free; }
  static index_t memory_in_use() {
    const Memory now = memory();
    return now.total - now.free;
  }
  static index_t peak_memory() { return memory_in_use(); }
  static bool reset_peak() { return true; }  // no peak is kept: the caller takes the most of what it saw
  static void return_freed_memory() {}
  static void describe(const Context& ctx, nlohmann::json& versions) {
    int device = 0;
    backend::cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    cudaDeviceProp properties{};
    backend::cuda::check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    int driver = 0;
    backend::cuda::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    versions["device"] = properties.name;
    versions["cuda"] = {{"runtime", CUDART_VERSION}, {"driver", driver}};
    versions["tf32"] = ctx.allows_tf32();
  }

 private:
  struct Memory {
    index_t free, total;
  };
  static Memory memory() {
    std::size_t free = 0;
    std::size_t total = 0;
    backend::cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {static_cast<index_t>(free), static_cast<index_t>(total)};
  }
};

}  // namespace sparsegrad::finetune
