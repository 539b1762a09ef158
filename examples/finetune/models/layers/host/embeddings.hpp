#pragma once

#include "../embeddings.hpp"
#include "layer_norm.hpp"

namespace sparsegrad::glue {

template <class T, class Context>
void embeddings_forward(Context& ctx, const Embeddings<T>& e, const Batch& batch, const Dropout<T>& dropout,
                        MatrixView<T> xhat, T* rstd, MatrixView<T> y) {
  const index_t n = e.word.cols;
  for_rows(ctx, batch.tokens(), [&](index_t i) {
    const auto token = static_cast<std::size_t>(i);
    const T* __restrict w = e.word.row(batch.ids[token]);
    const T* __restrict p = e.position.row(batch.position_ids[token]);
    const T* __restrict t = e.type.row(batch.type_ids[token]);
    T* __restrict z = xhat.row(i);
    for (index_t j = 0; j < n; ++j)
      z[j] = w[j] + t[j] + p[j];
    T* __restrict out = y.row(i);
    rstd[i] = normalize_row(e.norm, z, out, n);
    if (dropout.on()) {
      const auto mask = mask_row(dropout, i);
      for_packs<T>(n, [=](auto at) { at.store(out, at.load(out) * mask(at)); });
    }
  });
}

/// `g` = dy is overwritten. Gradients are added to; each element of a table sums its tokens in their order.
template <class T, class Context>
void embeddings_backward(Context& ctx, const Embeddings<T>& e, const Batch& batch, const Dropout<T>& dropout,
                         MatrixView<const T> xhat, const T* rstd, MatrixView<T> g) {
  const index_t n = g.cols;
  T* const targets[2] = {e.norm.d_gamma, e.norm.d_beta};
  for_rows_with_sums<T, 2>(ctx, g.rows, n, targets, [&](index_t i, T* sums) {
    T* __restrict gi = g.row(i);
    if (dropout.on()) {
      const auto mask = mask_row(dropout, i);
      for_packs<T>(n, [=](auto at) { at.store(gi, at.load(gi) * mask(at)); });
    }
    normalize_row_backward(e.norm, gi, xhat.row(i), rstd[i], sums, n);
  });
  // A task owns some columns of all tables.
  constexpr index_t columns = 64;
  ctx.parallel_for((n + columns - 1) / columns, [&](index_t task) {
    const index_t first = task * columns;
    const index_t count = std::min(columns, n - first);
    for (index_t i = 0; i < g.rows; ++i) {
      const auto token = static_cast<std::size_t>(i);
      const T* __restrict from = g.row(i) + first;
      const auto add = [from, first, count](MatrixView<T> table, std::int32_t row) {
        if (table.empty()) return;
        T* __restrict to = table.row(row) + first;
        for (index_t j = 0; j < count; ++j)
          to[j] += from[j];
      };
      add(e.d_word, batch.ids[token]);
      add(e.d_position, batch.position_ids[token]);
      add(e.d_type, batch.type_ids[token]);
    }
  });
}

}  // namespace sparsegrad::glue
