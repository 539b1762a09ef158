// Rows of activations as the small products of attention read and write them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "packs.hpp"

namespace sparsegrad::finetune {

template <class V>
struct StridedRows {
  V* data;
  index_t stride;
};

/// Rows of T in C = compute_t<T>: where they lie, or, of a T of 16 bits, in memory that is taken from here.
template <class T>
struct WideRows {
  using C = compute_t<T>;
  C* memory;

  StridedRows<const C> read(const T* x, index_t stride, index_t rows, index_t cols) {
    if constexpr (is_low_precision<T>) {
      const StridedRows<C> wide = take(rows, cols);
      for (index_t i = 0; i < rows; ++i) {
        const T* from = x + i * stride;
        C* to = wide.data + i * wide.stride;
        for_packs<C>(cols, [=](auto at) { at.store(to, at.load(from)); });
      }
      return {wide.data, wide.stride};
    } else {
      return {x, stride};
    }
  }
  /// For results, which `put_rows` takes from there.
  StridedRows<C> write(T* x, index_t stride, index_t rows, index_t cols) {
    if constexpr (is_low_precision<T>) {
      return take(rows, cols);
    } else {
      return {x, stride};
    }
  }

 private:
  StridedRows<C> take(index_t rows, index_t cols) {
    C* const at = memory;
    memory += rows * cols;
    return {at, cols};
  }
};

/// Sums of a T of 16 bits to where they belong; others are there.
template <class T>
void put_rows([[maybe_unused]] StridedRows<compute_t<T>> sums, [[maybe_unused]] index_t rows,
              [[maybe_unused]] index_t cols, [[maybe_unused]] T* x, [[maybe_unused]] index_t stride) {
  if constexpr (is_low_precision<T>) {
    for (index_t i = 0; i < rows; ++i) {
      const compute_t<T>* from = sums.data + i * sums.stride;
      T* to = x + i * stride;
      for_packs<compute_t<T>>(cols, [=](auto at) { at.store(to, at.load(from)); });
    }
  }
}

/// to[c, j] = from[j, c] of 4 rows and columns, in registers.
template <class T>
inline void transpose_four(const T* from, index_t from_stride, compute_t<T>* to, index_t to_stride) {
  using C = compute_t<T>;
  using Four = typename detail::VectorOf<C, 4>::type;
  const auto row = [&](index_t j) {
    Four v;
    if constexpr (std::is_same_v<T, bfloat16>) {
      typedef std::uint16_t Shorts __attribute__((vector_size(8)));
      typedef std::uint32_t Words __attribute__((vector_size(16)));
      Shorts bits;
      std::memcpy(&bits, from + j * from_stride, sizeof bits);
      v = std::bit_cast<Four>(__builtin_convertvector(bits, Words) << 16);
    } else {
      for (int l = 0; l < 4; ++l)
        v[l] = static_cast<C>(from[j * from_stride + l]);
    }
    return v;
  };
  const Four a = row(0), b = row(1), c = row(2), d = row(3);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const auto put = [&](index_t column, Four v) { std::memcpy(to + column * to_stride, &v, sizeof v); };
  put(0, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
  put(1, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
  put(2, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
  put(3, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

/// x [keys, cols] as [cols, to_stride], zeros beyond the keys; blocks of 4 x 4 go through registers.
template <class T>
void pack_transposed(const T* x, index_t stride, index_t keys, index_t cols, compute_t<T>* to,
                     index_t to_stride) {
  using C = compute_t<T>;
  index_t j = 0;
  for (; j + 4 <= keys; j += 4) {
    const T* rows = x + j * stride;
    index_t c = 0;
    for (; c + 4 <= cols; c += 4)
      transpose_four<T>(rows + c, stride, to + c * to_stride + j, to_stride);
    for (; c < cols; ++c)
      for (index_t i = 0; i < 4; ++i)
        to[c * to_stride + j + i] = static_cast<C>(rows[i * stride + c]);
  }
  for (index_t c = 0; c < cols; ++c) {
    C* row = to + c * to_stride;
    for (index_t i = j; i < to_stride; ++i)
      row[i] = i < keys ? static_cast<C>(x[i * stride + c]) : C(0);
  }
}

}  // namespace sparsegrad::finetune
