#pragma once

#include <sparsegrad/core/view.hpp>

#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// out = gelu(h + bias), exact (erf); h <- gelu'(h + bias), all that backward needs.
template <class T, class Context>
void gelu_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> h, MatrixView<T> out) {
  using C = compute_t<T>;
  for_rows(ctx, h.rows, [&](index_t i) {
    T* x = h.row(i);
    T* y = out.row(i);
    for_packs<C>(h.cols, [=](auto at) {
      const auto pair = gelu_for<T>(at.load(x) + at.load(bias));
      at.store(y, pair.value);
      at.store(x, pair.derivative);
    });
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
