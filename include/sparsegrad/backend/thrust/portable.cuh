// What code written once for the GPU and for Thrust's host system is made of.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include "../../core/float_bits.hpp"
#include "../../core/host_device.hpp"
#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// A matrix inside a kernel: MatrixView without the checks that only a host can make.
template <class T>
struct Array2 {
  T* data;
  index_t stride;

  Array2(MatrixView<T> a) : data(a.data), stride(a.stride) {}  // NOLINT(google-explicit-constructor)
  SPARSEGRAD_HOST_DEVICE T& operator()(index_t i, index_t j) const { return data[i * stride + j]; }
};

/// Calls f(e) for e in [0, n). F is a copyable function object with a const call operator for both
/// sides.
template <class System, class F>
void for_each_index(typename System::Context& ctx, index_t n, const F& f) {
  if (n <= 0) return;
  System::call([&] { thrust::for_each_n(System::policy(ctx), thrust::counting_iterator<index_t>(0), n, f); });
}

/// f(e / cols, e % cols). Divisions of 64 bits cost a GPU some ten times those of 32.
template <class F>
struct ByRowAndColumn {
  F f;
  index_t cols;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    if (e <= INT32_MAX && cols <= INT32_MAX) {
      const auto small = static_cast<std::uint32_t>(e);
      const auto width = static_cast<std::uint32_t>(cols);
      f(static_cast<index_t>(small / width), static_cast<index_t>(small % width));
    } else {
      f(e / cols, e % cols);
    }
  }
};

/// Calls f(i, j) for all entries of a rows x cols matrix.
template <class System, class F>
void for_each_entry(typename System::Context& ctx, index_t rows, index_t cols, const F& f) {
  for_each_index<System>(ctx, rows * cols, ByRowAndColumn<F>{f, cols});
}

/// *p += x, also when several threads do it; returns the value before.
SPARSEGRAD_HOST_DEVICE inline std::uint32_t atomic_add(std::uint32_t* p, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(p, x);
#else
  const std::uint32_t before = *p;
  *p += x;
  return before;
#endif
}

/// *p = max(*p, x), also when several threads do it.
SPARSEGRAD_HOST_DEVICE inline void atomic_max(std::uint32_t* p, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicMax(p, x);
#else
  if (x > *p) *p = x;
#endif
}

/// *p |= x, also when several threads do it.
SPARSEGRAD_HOST_DEVICE inline void atomic_or(std::uint32_t* p, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicOr(p, x);
#else
  *p |= x;
#endif
}

/// How many bits of x are 1.
SPARSEGRAD_HOST_DEVICE inline int count_bits(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __popc(x);
#else
  return std::popcount(x);
#endif
}

/// A barrier follows and then one thread of the block counts the block as done (atomic_add): with
/// this before, what the thread wrote to memory is seen by the block that finds itself the last.
SPARSEGRAD_HOST_DEVICE inline void publish() {
#if defined(__CUDA_ARCH__)
  __threadfence();
#endif
}
/// *p as other blocks of this launch have left it, past the caches that may hold what it was
/// before.
template <class T>
SPARSEGRAD_HOST_DEVICE T load_published(const T* p) {
#if defined(__CUDA_ARCH__)
  return __ldcg(p);
#else
  return *p;
#endif
}

/// a b, rounded by itself: never fused with a sum that follows, so that the host and the device get
/// the same bits.
SPARSEGRAD_HOST_DEVICE inline double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  const volatile double product = a * b;
  return product;
#endif
}

/// base^n for n >= 0 by squaring: the same bits on the host and the device, where pow's differ, and
/// far fewer instructions than pow in double. Off by some n ulps.
SPARSEGRAD_HOST_DEVICE inline double power(double base, std::int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2) {
    if (n % 2 != 0) result = rounded_product(result, base);
    base = rounded_product(base, base);
  }
  return result;
}

/// An integer that rises with |x|: -0 equals 0, every NaN is the same and above Inf.
template <class T>
SPARSEGRAD_HOST_DEVICE typename FloatBits<T>::Unsigned magnitude_key(const T& x) {
  const auto bits = FloatBits<T>::magnitude(x);
  return bits > FloatBits<T>::infinity ? FloatBits<T>::infinity + 1 : bits;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
