// Products of small tiles of 16-bit numbers on a warp's tensor cores.
#pragma once

#include <type_traits>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

#include "lanes.cuh"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
#endif

namespace sparsegrad::finetune::device {

/// The threads of a block of one warp share out its work.
struct WarpThread : BlockThread {
  SPARSEGRAD_HOST_DEVICE explicit WarpThread(int thread) : BlockThread(thread, 32) {}
};

/// A 16 x 16 tile of sums in float, held by all threads of a warp. The operands lie in shared memory, each tile's start
/// aligned to 32 bytes, strides multiples of 8. CUDA does not say which thread holds which numbers; an emulated one holds
/// eight that follow one another, and reads and writes no others.
template <class T>
class TileSum {
 public:
  static constexpr int side = 16;

  SPARSEGRAD_HOST_DEVICE TileSum() {
#if defined(__CUDA_ARCH__)
    nvcuda::wmma::fill_fragment(sums_, 0.0F);
#else
    for (float& x : sums_)
      x = 0;
#endif
  }

  /// += A B^T, A [16, 16] and B [16, 16] by rows.
  SPARSEGRAD_HOST_DEVICE void add_transposed(const T* a, const T* b, int stride_a, int stride_b) {
    add<true>(a, b, stride_a, stride_b);
  }
  /// += A B.
  SPARSEGRAD_HOST_DEVICE void add(const T* a, const T* b, int stride_a, int stride_b) {
    add<false>(a, b, stride_a, stride_b);
  }
  SPARSEGRAD_HOST_DEVICE void store(float* to, int stride) const {
#if defined(__CUDA_ARCH__)
    nvcuda::wmma::store_matrix_sync(to, sums_, static_cast<unsigned>(stride), nvcuda::wmma::mem_row_major);
#else
    for (int e = 0; e < own; ++e)
      to[place(e, stride)] = sums_[e];
#endif
  }

 private:
  template <bool Transposed>
  SPARSEGRAD_HOST_DEVICE void add(const T* a, const T* b, int stride_a, int stride_b) {
#if defined(__CUDA_ARCH__)
    namespace wmma = nvcuda::wmma;
    using Native = std::conditional_t<std::is_same_v<T, bfloat16>, __nv_bfloat16, __half>;
    using Layout = std::conditional_t<Transposed, wmma::col_major, wmma::row_major>;
    wmma::fragment<wmma::matrix_a, side, side, side, Native, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, side, side, side, Native, Layout> right;
    wmma::load_matrix_sync(left, reinterpret_cast<const Native*>(a), static_cast<unsigned>(stride_a));
    wmma::load_matrix_sync(right, reinterpret_cast<const Native*>(b), static_cast<unsigned>(stride_b));
    wmma::mma_sync(sums_, left, right, sums_);
#elif defined(SPARSEGRAD_EMULATED_LANES)
    T left[own];
    T right[own];
    for (int e = 0; e < own; ++e) {
      left[e] = a[place(e, stride_a)];
      right[e] = b[place(e, stride_b)];
    }
    emulated::multiply_squares<T>(left, right, Transposed, sums_);
#else
    for (int i = 0; i < side; ++i) {
      for (int j = 0; j < side; ++j) {
        float sum = sums_[i * side + j];
        for (int k = 0; k < side; ++k)
          sum += a[i * stride_a + k] * (Transposed ? b[j * stride_b + k] : b[k * stride_b + j]);
        sums_[i * side + j] = sum;
      }
    }
#endif
  }

#if defined(__CUDA_ARCH__)
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, side, side, side, float> sums_;
#else
  static constexpr int own = side * side / lanes_of_warp();
  /// Where in memory the e-th number of this thread is.
  static int place(int e, int stride) {
    const int number = lane() * own + e;
    return number / side * stride + number % side;
  }
  float sums_[own];
#endif
};

}  // namespace sparsegrad::finetune::device
