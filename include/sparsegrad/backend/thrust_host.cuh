// backend::ThrustHost: the CUDA backend's algorithms on Thrust's host system, to test them without
// a GPU.
#pragma once

#include <algorithm>

#include <thrust/system/cpp/execution_policy.h>

#include "host/context.hpp"
#include "host/plain_eigh.hpp"
#include "host/plain_products.hpp"
#include "thrust/kernels.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

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
  template <class T>
  static void fetch(Context&, const T* p, T* to, index_t n) {
    std::copy(p, p + n, to);
  }
};

/// ThrustHost with the kernels run by `HostSystem_`: HostSystem, or one that runs them in another
/// order.
template <class HostSystem_>
struct BasicThrustHost : Kernels<HostSystem_> {
  using System = HostSystem_;
  using Context = typename System::Context;
  using Memory = host::HostMemory;
  static constexpr const char* name() { return "thrust_host"; }
  static constexpr double dense_above_density = 1;  // left to the cost model
  static double expansion_cost(const Context&) { return 20; }

  static Memory memory(const Context&) { return {}; }
  template <class T>
  static void upload(Context&, const T* source, T* p, index_t n) {
    std::copy(source, source + n, p);
  }
  template <class T>
  static void download(Context&, const T* p, T* target, index_t n) {
    std::copy(p, p + n, target);
  }
  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    host::PlainProducts::gemm<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    host::PlainProducts::gemm<T, compute_t<T>>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    host::PlainProducts::gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs);
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    host::PlainProducts::gram<T>(ctx, op, a, weight, g);
  }
  static void eigh(Context&, MatrixView<double> a, double* w) { host::PlainEigh::run(a, w); }
};

}  // namespace portable

/// Serial, without a library of linear algebra. Compiles with g++ and clang++ too, where Thrust's
/// headers are found and THRUST_DEVICE_SYSTEM is THRUST_DEVICE_SYSTEM_CPP. For tests: as a backend
/// of programs it has no merit.
struct ThrustHost : portable::BasicThrustHost<portable::HostSystem> {};

static_assert(BatchedBackend<ThrustHost> && LowPrecisionBackend<ThrustHost, bfloat16> &&
              LowPrecisionBackend<ThrustHost, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
