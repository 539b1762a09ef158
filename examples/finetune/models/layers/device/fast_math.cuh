// Elementary functions for results that are rounded to T. For a T of 16 bits a GPU takes its approximate
// instructions, one for a function, whose relative error is below 2^-21; numbers below 2^-126 count as zeros there.
#pragma once

#include <cmath>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

namespace sparsegrad::finetune::device {

/// 2^x.
template <class T>
SPARSEGRAD_HOST_DEVICE compute_t<T> power_of_two(compute_t<T> x) {
#if defined(__CUDA_ARCH__)
  if constexpr (is_low_precision<T>) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return std::exp2(x);
}

/// 1 / x.
template <class T>
SPARSEGRAD_HOST_DEVICE compute_t<T> reciprocal(compute_t<T> x) {
#if defined(__CUDA_ARCH__)
  if constexpr (is_low_precision<T>) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return compute_t<T>(1) / x;
}

}  // namespace sparsegrad::finetune::device
