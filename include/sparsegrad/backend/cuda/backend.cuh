// The contract's operations on CUDA's memory, streams and libraries, whoever launches the kernels.
#pragma once

#include <span>
#include <type_traits>

#include "../../core/backend.hpp"
#include "../thrust/kernels.cuh"
#include "context.cuh"
#include "eigen_problem.cuh"
#include "products.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

/// The part of a System (see portable::Kernels) that no kernel is needed for: numbers to and from
/// the host.
struct CopySystem {
  using Context = CudaContext;

  /// *p, once the stream's work is done.
  template <class T>
  static T fetch(CudaContext& ctx, const T* p) {
    T value;
    fetch(ctx, p, &value, 1);
    return value;
  }
  /// The same of n numbers.
  template <class T>
  static void fetch(CudaContext& ctx, const T* p, T* to, index_t n) {
    copy_bytes(ctx, p, to, n);
    ctx.synchronize();
  }
  /// Host or device to host or device.
  template <class T>
  static void copy_bytes(CudaContext& ctx, const T* from, T* to, index_t n) {
    if (n <= 0) return;
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(n) * sizeof(T), cudaMemcpyDefault, ctx.stream()),
          "cudaMemcpyAsync");
  }
};

/// The CUDA backend but for the launch of its kernels, which is SystemOfKernels's.
template <class SystemOfKernels>
struct CudaBackend : portable::Kernels<SystemOfKernels> {
  using System = SystemOfKernels;
  using Context = CudaContext;
  using Memory = ObjectMemory;
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
  /// As upload, without waiting: see CudaContext::stage.
  template <class T>
  static void stage(Context& ctx, const T* source, T* p, index_t n) {
    ctx.stage(source, p, static_cast<std::size_t>(n) * sizeof(T));
  }
  template <class T>
  static void download(Context& ctx, const T* p, T* target, index_t n) {
    System::fetch(ctx, p, target, n);
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

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
