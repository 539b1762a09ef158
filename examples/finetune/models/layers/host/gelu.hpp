#pragma once

#include <algorithm>
#include <limits>

#include <sparsegrad/core/view.hpp>

#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// out = gelu(h + bias), exact (erf); h <- gelu'(h + bias), all that backward needs.
template <class T, class Context>
void gelu_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> h, MatrixView<T> out) {
  using C = compute_t<T>;
  // Rounding to 16 bits in a loop of its own: with it the one before has too many instructions for iterations to overlap.
  constexpr index_t block = is_low_precision<T> ? 256 : std::numeric_limits<index_t>::max();
  for_rows(ctx, h.rows, [&](index_t i) {
    [[maybe_unused]] C values[256], derivatives[256];
    for (index_t first = 0; first < h.cols; first += std::min(block, h.cols - first)) {
      const index_t n = std::min(block, h.cols - first);
      T* x = h.row(i) + first;
      T* y = out.row(i) + first;
      const C* b = bias + first;
      C* value = work_row(y, values);
      C* derivative = work_row(x, derivatives);
      for_packs<C>(n, [=](auto at) {
        const auto pair = gelu_of(at.load(x) + at.load(b));
        at.store(value, pair.value);
        at.store(derivative, pair.derivative);
      });
      if constexpr (is_low_precision<T>) {
        for_packs<C>(n, [=](auto at) {
          at.store(y, at.load(value));
          at.store(x, at.load(derivative));
        });
      }
    }
  });
}

/// g <- g * slope; d_bias += column sums of the result (null: left out).
template <class T, class Context>
void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, compute_t<T>* d_bias) {
  using C = compute_t<T>;
  C* const targets[1] = {d_bias};
  for_rows_with_sums<C, 1>(ctx, g.rows, g.cols, 0, targets, [&](index_t i, C* sums) {
    T* gi = g.row(i);
    const T* d = slope.row(i);
    for_packs<C>(g.cols, [=](auto at) {
      const auto product = at.load(gi) * at.load(d);
      at.store(gi, product);
      at.store(sums, at.load(sums) + product);
    });
  });
}

}  // namespace sparsegrad::finetune
