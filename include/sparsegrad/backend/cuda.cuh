// backend::Cuda: the contract on an NVIDIA GPU, with cuBLAS, cuSOLVER and Thrust.
#pragma once

#include <thrust/system/cuda/error.h>
#include <thrust/system/cuda/execution_policy.h>
#include <thrust/system_error.h>

#include "../core/backend.hpp"
#include "cuda/backend.cuh"
#include "thrust/block_kernel.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

namespace cuda {

/// Where the portable algorithms run: on the context's stream, with temporaries from its scratch,
/// without waiting unless a number goes back to the host.
struct CudaSystem : CopySystem {
  static auto policy(CudaContext& ctx) { return thrust::cuda::par_nosync(ctx.allocator()).on(ctx.stream()); }
  /// From compute capability 9.0 on a kernel is launched while the one before it ends (programmatic
  /// dependent launch), in a capture too: that saves most of the gap between two.
  template <class K>
  static void launch(CudaContext& ctx, index_t blocks, const K& kernel) {
    if (blocks <= 0) return;
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(K::threads));
    config.stream = ctx.stream();
    config.attrs = &overlap;
    config.numAttrs = portable::kernels_wait ? 1 : 0;
    check(cudaLaunchKernelEx(&config, portable::block_kernel<K>, kernel), "kernel launch");
  }
  /// A call of Thrust's, whose failures become this library's exceptions.
  template <class F>
  static decltype(auto) call(F&& f) {
    try {
      return f();
    } catch (const thrust::system_error& error) {
      if (error.code().category() != thrust::cuda_category())
        throw CudaError(error.what(), error.code().value());
      fail(static_cast<cudaError_t>(error.code().value()), "Thrust");
    }
  }
};

}  // namespace cuda

/// Memory of views and pointers is the device's. These wait for the device, because numbers come
/// from the host or go back to it: upload, download, squared_norm and first_nonfinite
/// (also of many arrays), group_support, locate_entries, eigh. The others only add work to the
/// stream. Float products are float's unless the context allows TF32.
struct Cuda : cuda::CudaBackend<cuda::CudaSystem> {};

static_assert(BatchedBackend<Cuda> && LowPrecisionBackend<Cuda, bfloat16> &&
              LowPrecisionBackend<Cuda, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
