#pragma once

#include <sparsegrad/core/view.hpp>

#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// 1 / (1 + e^-x) for results that are rounded to T.
template <class T, class V>
inline V logistic_for(V x) {
  return 1 / (1 + exp_for<T>(-x));
}

/// out = silu(gate) up with silu(x) = x / (1 + e^-x).
template <class T, class Context>
void swiglu_forward(Context& ctx, MatrixView<const T> gate, MatrixView<const T> up, MatrixView<T> out) {
  for_rows(ctx, gate.rows, [&](index_t i) {
    const T* g = gate.row(i);
    const T* u = up.row(i);
    T* o = out.row(i);
    for_packs<compute_t<T>>(gate.cols, [=](auto at) {
      const auto x = at.load(g);
      at.store(o, x * logistic_for<T>(x) * at.load(u));
    });
  });
}

/// From `d_out`: gate and up become their own gradients.
template <class T, class Context>
void swiglu_backward(Context& ctx, MatrixView<const T> d_out, MatrixView<T> gate, MatrixView<T> up) {
  for_rows(ctx, gate.rows, [&](index_t i) {
    const T* d = d_out.row(i);
    T* g = gate.row(i);
    T* u = up.row(i);
    for_packs<compute_t<T>>(gate.cols, [=](auto at) {
      const auto x = at.load(g);
      const auto dy = at.load(d);
      const auto s = logistic_for<T>(x);
      const auto silu = x * s;
      const auto d_gate = dy * at.load(u) * (s + silu * (1 - s));
      at.store(u, dy * silu);
      at.store(g, d_gate);
    });
  });
}

}  // namespace sparsegrad::finetune
