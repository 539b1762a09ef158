// backend::Cuda: the contract on an NVIDIA GPU, with cuBLAS, cuSOLVER and Thrust.
#pragma once

#include <span>

#include <thrust/system/cuda/error.h>
#include <thrust/system/cuda/execution_policy.h>
#include <thrust/system_error.h>

#include "../core/backend.hpp"
#include "cuda/context.cuh"
#include "cuda/eigen_problem.cuh"
#include "cuda/products.cuh"
#include "thrust/kernels.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

namespace cuda {

/// Where the portable algorithms run: on the context's stream, with temporaries from its scratch,
/// without waiting unless a number goes back to the host.
struct CudaSystem {
  using Context = CudaContext;

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
  template <class T>
  static T fetch(CudaContext& ctx, const T* p) {
    T value;
    copy_bytes(ctx, p, &value, 1);
    ctx.synchronize();
    return value;
  }
  /// Host or device to host or device.
  template <class T>
  static void copy_bytes(CudaContext& ctx, const T* from, T* to, index_t n) {
    if (n <= 0) return;
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(n) * sizeof(T), cudaMemcpyDefault, ctx.stream()),
          "cudaMemcpyAsync");
  }
};

}  // namespace cuda

/// Memory of views and pointers is the device's. These wait for the device, because numbers come
/// from the host or go back to it: upload, download, squared_norm, first_nonfinite,
/// first_nonfinite_batched, group_support, locate_entries, eigh. The others only add work to the
/// stream. Float products are float's unless the context allows TF32.
struct Cuda : portable::Kernels<cuda::CudaSystem> {
  using System = cuda::CudaSystem;
  using Memory = cuda::ObjectMemory;
  static constexpr const char* name() { return "cuda"; }
  /// Always: products are cheap here, and grouping a support waits for the number of its groups.
  static constexpr double dense_above_density = 0;
  /// A multiply-add of expand_nonzeros in those of a dense product: it reads a number of the factor
  /// from the L2 cache, of some 1.2 T a second on an H200; its dense products do some 25 T in float
  /// and 200 T on TF32 tensor cores. Estimates from data sheets, not measured.
  static double expansion_cost(const Context& ctx) { return ctx.uses_tf32() ? 160 : 20; }

  static Memory memory(const Context& ctx) { return {ctx.memory()}; }
  template <class T>
  static void upload(Context& ctx, const T* source, T* p, index_t n) {
    System::copy_bytes(ctx, source, p, n);
    ctx.synchronize();  // the caller's memory may be gone when this returns
  }
  template <class T>
  static void download(Context& ctx, const T* p, T* target, index_t n) {
    System::copy_bytes(ctx, p, target, n);
    ctx.synchronize();
  }
  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (is_low_precision<T>) {
      cuda::low_precision_gemm<T, T, System>(ctx, op_a, op_b, alpha, a, b, beta, c);
    } else {
      cuda::gemm<T, System>(ctx, op_a, op_b, alpha, a, b, beta, c);
    }
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    cuda::low_precision_gemm<T, compute_t<T>, System>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    cuda::gemm_batched<T, System>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    cuda::gram<T, System>(ctx, op, a, weight, g);
  }
  static void eigh(Context& ctx, MatrixView<double> a, double* w) { cuda::eigh<System>(ctx, a, w); }
};

static_assert(BatchedBackend<Cuda> && LowPrecisionBackend<Cuda, bfloat16> &&
              LowPrecisionBackend<Cuda, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
