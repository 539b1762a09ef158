#pragma once

#include <cstdint>

#include "../causal_shape.hpp"
#include "../rope.hpp"
#include "row_blocks.hpp"

namespace sparsegrad::finetune {

/// Rotates the heads of a row by the angles of its position, or back.
template <class T>
inline void rotate_heads(const compute_t<T>* cosines, const compute_t<T>* sines, bool back, index_t heads,
                         index_t head_size, T* row) {
  using C = compute_t<T>;
  const index_t half = head_size / 2;
  const C sign = back ? C(-1) : C(1);
  for (index_t h = 0; h < heads; ++h) {
    T* low = row + h * head_size;
    T* high = low + half;
    for_packs<C>(half, [=](auto at) {
      const auto c = at.load(cosines);
      const auto s = at.load(sines) * sign;
      const auto x = at.load(low);
      const auto y = at.load(high);
      at.store(low, x * c - y * s);
      at.store(high, y * c + x * s);
    });
  }
}

/// `qkv` [tokens, q_cols + 2 kv_cols] += bias (null: none); then its queries and keys are rotated to `positions`.
template <class T, class Context>
void rope_forward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                  const std::int32_t* positions, const compute_t<T>* bias, MatrixView<T> qkv) {
  using C = compute_t<T>;
  for_rows(ctx, qkv.rows, [&](index_t i) {
    T* row = qkv.row(i);
    if (bias != nullptr)
      for_packs<C>(qkv.cols, [=](auto at) { at.store(row, at.load(row) + at.load(bias)); });
    rotate_heads<T>(table.cosines.row(positions[i]), table.sines.row(positions[i]), false,
                    shape.heads + shape.kv_heads, shape.head_size, row);
  });
}

/// The gradient before rope_forward from the one after it, in place.
template <class T, class Context>
void rope_backward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                   const std::int32_t* positions, MatrixView<T> d_qkv) {
  for_rows(ctx, d_qkv.rows, [&](index_t i) {
    rotate_heads<T>(table.cosines.row(positions[i]), table.sines.row(positions[i]), true,
                    shape.heads + shape.kv_heads, shape.head_size, d_qkv.row(i));
  });
}

}  // namespace sparsegrad::finetune
