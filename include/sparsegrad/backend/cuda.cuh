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
  template <class K>
  static void launch(CudaContext& ctx, index_t blocks, const K& kernel) {
    if (blocks <= 0) return;
    portable::block_kernel<K><<<static_cast<unsigned>(blocks), K::threads, 0, ctx.stream()>>>(kernel);
    check(cudaGetLastError(), "kernel launch");
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
/// from the host or go back to it: upload, download, squared_norm, first_nonfinite,
/// first_nonfinite_batched, group_support, locate_entries, eigh. The others only add work to the
/// stream. Float products are float's unless the context allows TF32.
struct Cuda : cuda::CudaBackend<cuda::CudaSystem> {};

static_assert(BatchedBackend<Cuda> && LowPrecisionBackend<Cuda, bfloat16> &&
              LowPrecisionBackend<Cuda, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
