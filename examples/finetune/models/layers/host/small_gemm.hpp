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

template <class T, int Vectors>
inline void small_rows(index_t m, index_t depth, SmallLeft<T> a, const T* b, index_t b_stride, T alpha,
                       bool add, T* c, index_t c_stride) {
  constexpr int full = 6;
  index_t i = 0;
  for (; i + full <= m; i += full) {
    small_tile<T, full, Vectors>(depth, a.data + i * a.row_step, a.row_step, a.col_step, b, b_stride, alpha,
                                 add, c + i * c_stride, c_stride);
  }
  const T* rest = a.data + i * a.row_step;
  T* c_rest = c + i * c_stride;
  switch (m - i) {
    case 5:
      return small_tile<T, 5, Vectors>(depth, rest, a.row_step, a.col_step, b, b_stride, alpha, add, c_rest,
                                       c_stride);
    case 4:
      return small_tile<T, 4, Vectors>(depth, rest, a.row_step, a.col_step, b, b_stride, alpha, add, c_rest,
                                       c_stride);
    case 3:
      return small_tile<T, 3, Vectors>(depth, rest, a.row_step, a.col_step, b, b_stride, alpha, add, c_rest,
                                       c_stride);
    case 2:
      return small_tile<T, 2, Vectors>(depth, rest, a.row_step, a.col_step, b, b_stride, alpha, add, c_rest,
                                       c_stride);
    case 1:
      return small_tile<T, 1, Vectors>(depth, rest, a.row_step, a.col_step, b, b_stride, alpha, add, c_rest,
                                       c_stride);
    default:
      return;
  }
}

}  // namespace detail

/// C [m, n] = alpha A B, or C += alpha A B; B [depth, n] and C are row-major.
template <class T>
inline void small_gemm(index_t m, index_t n, index_t depth, SmallLeft<T> a, const T* b, index_t b_stride,
                       T alpha, bool add, T* c, index_t c_stride) {
  constexpr index_t width = Simd<T>::width;
  index_t j = 0;
  for (; j + 2 * width <= n; j += 2 * width)
    detail::small_rows<T, 2>(m, depth, a, b + j, b_stride, alpha, add, c + j, c_stride);
  for (; j + width <= n; j += width)
    detail::small_rows<T, 1>(m, depth, a, b + j, b_stride, alpha, add, c + j, c_stride);
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
