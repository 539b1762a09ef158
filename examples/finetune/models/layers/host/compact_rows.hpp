// Rows of activations as the small products of attention read and write them: in C = compute_t<T>, one after the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include <sparsegrad/core/view.hpp>

#include "packs.hpp"

namespace sparsegrad::finetune {

/// to [rows, cols] = x.
template <class T>
void read_rows(MatrixView<const T> x, compute_t<T>* to) {
  for (index_t i = 0; i < x.rows; ++i) {
    const T* from = x.row(i);
    for_packs<compute_t<T>>(x.cols, [=](auto at) { at.store(to, at.load(from)); });
    to += x.cols;
  }
}

/// x = from [rows, cols].
template <class T>
void write_rows(const compute_t<T>* from, MatrixView<T> x) {
  for (index_t i = 0; i < x.rows; ++i) {
    T* to = x.row(i);
    for_packs<compute_t<T>>(x.cols, [=](auto at) { at.store(to, at.load(from)); });
    from += x.cols;
  }
}

namespace detail {

/// A step of a transposition: where the bits of two rows' numbers differ in `step` alone, a has the row without it. Of
/// the lanes without that bit a keeps its own and gets those of b; b gets a's lanes with it and keeps its own.
template <int step, bool of_a, class V, std::size_t... lanes>
inline V exchanged(V a, V b, std::index_sequence<lanes...>) {
  constexpr int width = static_cast<int>(sizeof...(lanes));
  constexpr auto source = [](int lane) {
    const bool has_bit = (lane & step) != 0;
    if (of_a) return has_bit ? width + lane - step : lane;
    return has_bit ? width + lane : lane + step;
  };
  return __builtin_shufflevector(a, b, source(static_cast<int>(lanes))...);
}

template <int step, class V, int width>
inline void transpose_steps(V (&rows)[width]) {
  for (int i = 0; i < width; ++i) {
    if ((i & step) != 0) continue;
    const V a = rows[i];
    const V b = rows[i + step];
    rows[i] = exchanged<step, true>(a, b, std::make_index_sequence<width>());
    rows[i + step] = exchanged<step, false>(a, b, std::make_index_sequence<width>());
  }
  if constexpr (step > 1) transpose_steps<step / 2>(rows);
}

}  // namespace detail

/// to [cols, to_stride] = x transposed. Its rows are filled up to whole vectors with the numbers of the last row of x.
template <class T>
void read_transposed(MatrixView<const T> x, compute_t<T>* to, index_t to_stride) {
  using C = compute_t<T>;
  constexpr int width = Simd<C>::width;
  for (index_t i = 0; i < x.rows; i += width) {
    const T* from[width];
    for (int l = 0; l < width; ++l)
      from[l] = x.row(std::min<index_t>(i + l, x.rows - 1));
    index_t c = 0;
    for (; c + width <= x.cols; c += width) {
      Pack<C> block[width];
      for (int l = 0; l < width; ++l)
        block[l] = load_pack<T>(from[l] + c);
      detail::transpose_steps<width / 2>(block);
      for (int l = 0; l < width; ++l)
        store_pack<C>(to + (c + l) * to_stride + i, block[l]);
    }
    for (; c < x.cols; ++c)
      for (int l = 0; l < width; ++l)
        to[c * to_stride + i + l] = static_cast<C>(from[l][c]);
  }
}

}  // namespace sparsegrad::finetune
