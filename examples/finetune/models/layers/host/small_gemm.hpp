// Products of the small matrices of attention, on the calling thread, in registers.
#pragma once

#include <cstring>

#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Element (i, p) of a left factor is data[i * row_step + p * col_step].
template <class T>
struct SmallLeft {
  const T* data;
  index_t row_step;
  index_t col_step;
};

namespace detail {

/// Rows x (Vectors * width) of the result in registers.
template <class T, int Rows, int Vectors>
inline void small_tile(index_t depth, const T* __restrict a, index_t row_step, index_t col_step,
                       const T* __restrict b, index_t b_stride, T alpha, bool add, T* __restrict c,
                       index_t c_stride) {
  using V = typename Simd<T>::type;
  constexpr int width = Simd<T>::width;
  V sums[Rows][Vectors] = {};
  for (index_t p = 0; p < depth; ++p) {
    V right[Vectors];
    for (int v = 0; v < Vectors; ++v)
      std::memcpy(&right[v], b + p * b_stride + v * width, sizeof(V));
    for (int i = 0; i < Rows; ++i) {
      const T left = a[i * row_step + p * col_step];
      for (int v = 0; v < Vectors; ++v)
        sums[i][v] += left * right[v];
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      T* target = c + i * c_stride + v * width;
      V result = alpha * sums[i][v];
      if (add) {
        V old;
        std::memcpy(&old, target, sizeof(V));
        result += old;
      }
      std::memcpy(target, &result, sizeof(V));
    }
  }
}

/// All rows of the result, as many as Rows at a time.
template <class T, int Rows, int Vectors>
inline void small_rows(index_t m, index_t depth, SmallLeft<T> a, const T* b, index_t b_stride, T alpha,
                       bool add, T* c, index_t c_stride) {
  for (; m >= Rows; m -= Rows) {
    small_tile<T, Rows, Vectors>(depth, a.data, a.row_step, a.col_step, b, b_stride, alpha, add, c, c_stride);
    a.data += Rows * a.row_step;
    c += Rows * c_stride;
  }
  if constexpr (Rows > 1) {
    if (m > 0) small_rows<T, Rows - 1, Vectors>(m, depth, a, b, b_stride, alpha, add, c, c_stride);
  }
}

}  // namespace detail

/// C [m, n] = alpha A B, or C += alpha A B; B [depth, n] and C are row-major.
template <class T>
inline void small_gemm(index_t m, index_t n, index_t depth, SmallLeft<T> a, const T* b, index_t b_stride,
                       T alpha, bool add, T* c, index_t c_stride) {
  constexpr index_t width = Simd<T>::width;
  index_t j = 0;
  // Twelve sums in registers: fewer do not fill the multipliers' pipelines.
  for (; j + 2 * width <= n; j += 2 * width)
    detail::small_rows<T, 6, 2>(m, depth, a, b + j, b_stride, alpha, add, c + j, c_stride);
  for (; j + width <= n; j += width)
    detail::small_rows<T, 12, 1>(m, depth, a, b + j, b_stride, alpha, add, c + j, c_stride);
  for (; j < n; ++j) {
    for (index_t i = 0; i < m; ++i) {
      T sum = 0;
      for (index_t p = 0; p < depth; ++p)
        sum += a.data[i * a.row_step + p * a.col_step] * b[p * b_stride + j];
      T& target = c[i * c_stride + j];
      target = add ? target + alpha * sum : alpha * sum;
    }
  }
}

}  // namespace sparsegrad::finetune
