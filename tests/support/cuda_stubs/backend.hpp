// The CUDA backend on the device of device.hpp: all of it but nvcc's launches and Thrust's CUDA system.
#pragma once

#include <memory>

#include <thrust/for_each.h>
#include <thrust/scan.h>
#include <thrust/sort.h>
#include <thrust/system/cpp/execution_policy.h>
#include <thrust/transform_reduce.h>

#include <sparsegrad/backend/cuda/backend.cuh>

#include "support/block_orders.hpp"

#include "device.hpp"

namespace sparsegrad::test::cuda_stubs {

/// Thrust's algorithms as work of a stream.
struct Policy : thrust::cpp::execution_policy<Policy> {
  cudaStream_t stream = nullptr;

  template <class F>
  void submit(F&& work) const {
    backend::cuda::check(Device::get().submit(stream, std::forward<F>(work)), "Thrust");
  }
};

// The algorithms that the library calls; Thrust finds them by the policy's type.
template <class Iterator, class Size, class F>
Iterator for_each_n(Policy& policy, Iterator first, Size n, F f) {
  policy.submit([=] {
    if (block_order() == BlockOrder::sequential) {
      thrust::for_each_n(thrust::cpp::par, first, n, f);
    } else {
      for_each_in_order(first, static_cast<index_t>(n), f);
    }
  });
  return first + n;
}
template <class In, class Out>
Out inclusive_scan(Policy& policy, In first, In last, Out out) {
  policy.submit([=] { thrust::inclusive_scan(thrust::cpp::par, first, last, out); });
  return out + (last - first);
}
template <class Key, class Value>
void stable_sort_by_key(Policy& policy, Key first, Key last, Value values) {
  policy.submit([=] { thrust::stable_sort_by_key(thrust::cpp::par, first, last, values); });
}
/// Waits: the result goes back to the host.
template <class Iterator, class Transform, class T, class Reduce>
T transform_reduce(Policy& policy, Iterator first, Iterator last, Transform transform, T initial,
                   Reduce reduce) {
  const auto result = std::make_shared<T>();
  policy.submit(
      [=] { *result = thrust::transform_reduce(thrust::cpp::par, first, last, transform, initial, reduce); });
  backend::cuda::check(cudaStreamSynchronize(policy.stream), "Thrust");
  return *result;
}

struct System : backend::cuda::CopySystem {
  static Policy policy(Context& ctx) {
    Policy own;
    own.stream = ctx.stream();
    return own;
  }
  template <class K>
  static void launch(Context& ctx, index_t blocks, const K& kernel) {
    static_assert(K::threads <= 1024 && sizeof(K) <= 4096 && sizeof(typename K::Shared) <= (48 << 10));
    if (blocks <= 0) return;
    backend::cuda::check(Device::get().submit(ctx.stream(), [=] { run_blocks_in_order(blocks, kernel); }),
                         "kernel launch");
  }
  template <class F>
  static decltype(auto) call(F&& f) {
    return f();
  }
};

struct Cuda : backend::cuda::CudaBackend<System> {};

static_assert(BatchedBackend<Cuda> && LowPrecisionBackend<Cuda, bfloat16> &&
              LowPrecisionBackend<Cuda, float16>);

}  // namespace sparsegrad::test::cuda_stubs
