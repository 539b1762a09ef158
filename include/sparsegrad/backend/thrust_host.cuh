// backend::ThrustHost: the CUDA backend's algorithms on Thrust's host system, to test them without a GPU.
#pragma once

#include <algorithm>

#include <thrust/system/cpp/execution_policy.h>

#include "reference.hpp"
#include "thrust/kernels.cuh"

namespace sparsegrad::backend {

namespace portable {

/// The host's context, with what the steps of a BatchedBackend tell it (see CudaContext::check).
class ThrustHostContext : public host::HostContext {
 public:
  using host::HostContext::HostContext;

  void check() { flag_.raise(); }
  StepFlag& step_flag() { return flag_; }
  StepFlag* step_flag_of_device() { return &flag_; }

 private:
  StepFlag flag_;
};

struct HostSystem {
  using Context = ThrustHostContext;

  static auto policy(Context&) { return thrust::cpp::par; }
  template <class K>
  static void launch(Context&, index_t blocks, const K& kernel) {
    run_blocks_on_host(blocks, kernel);
  }
  template <class F>
  static decltype(auto) call(F&& f) {
    return f();
  }
  template <class T>
  static T fetch(Context&, const T* p) {
    return *p;
  }
};

}  // namespace portable

/// Serial; products and eigenproblem are Reference's. Compiles with g++ and clang++ too, where Thrust's headers are
/// found and THRUST_DEVICE_SYSTEM is THRUST_DEVICE_SYSTEM_CPP. For tests: as a backend of programs it has no merit.
struct ThrustHost : portable::Kernels<portable::HostSystem> {
  using System = portable::HostSystem;
  using Memory = Reference::Memory;
  static constexpr const char* name() { return "thrust_host"; }
  static constexpr double dense_above_density = Reference::dense_above_density;
  static double expansion_cost(const Context&) { return 20; }

  static Memory memory(const Context& ctx) { return Reference::memory(ctx); }
  template <class T>
  static void upload(Context& ctx, const T* source, T* p, index_t n) {
    Reference::upload(ctx, source, p, n);
  }
  template <class T>
  static void download(Context& ctx, const T* p, T* target, index_t n) {
    Reference::download(ctx, p, target, n);
  }
  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    Reference::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    Reference::gemm_wide<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    Reference::gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    Reference::gram<T>(ctx, op, a, weight, g);
  }
  static void eigh(Context& ctx, MatrixView<double> a, double* w) { Reference::eigh(ctx, a, w); }
};

static_assert(BatchedBackend<ThrustHost>);

}  // namespace sparsegrad::backend
