// Rows of activations as the small products of attention read and write them.
#pragma once

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

/// x [keys, cols] as [cols, to_stride], zeros beyond the keys.
template <class T>
void pack_transposed(const T* x, index_t stride, index_t keys, index_t cols, compute_t<T>* to,
                     index_t to_stride) {
  using C = compute_t<T>;
  for (index_t c = 0; c < cols; ++c) {
    C* row = to + c * to_stride;
    for (index_t j = 0; j < keys; ++j)
      row[j] = static_cast<C>(x[j * stride + c]);
    for (index_t j = keys; j < to_stride; ++j)
      row[j] = C(0);
  }
}

}  // namespace sparsegrad::finetune
