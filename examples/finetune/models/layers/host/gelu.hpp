#pragma once

#include <sparsegrad/core/view.hpp>

#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::glue {

/// out = gelu(h + bias), exact (erf); h <- gelu'(h + bias), all that backward needs.
template <class T, class Context>
void gelu_forward(Context& ctx, const T* bias, MatrixView<T> h, MatrixView<T> out) {
  for_rows(ctx, h.rows, [&](index_t i) {
    T* __restrict x = h.row(i);
    T* __restrict y = out.row(i);
    const T* __restrict b = bias;
    for_packs<T>(h.cols, [=](auto at) {
      const auto pair = gelu_of(at.load(x) + at.load(b));
      at.store(y, pair.value);
      at.store(x, pair.derivative);
    });
  });
}

/// g <- g * slope; d_bias += column sums of the result (null: left out).
template <class T, class Context>
void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, T* d_bias) {
  T* const targets[1] = {d_bias};
  for_rows_with_sums<T, 1>(ctx, g.rows, g.cols, targets, [&](index_t i, T* sums) {
    T* __restrict gi = g.row(i);
    T* __restrict s = sums;
    const T* __restrict d = slope.row(i);
    for (index_t j = 0; j < g.cols; ++j) {
      gi[j] *= d[j];
      s[j] += gi[j];
    }
  });
}

}  // namespace sparsegrad::glue
