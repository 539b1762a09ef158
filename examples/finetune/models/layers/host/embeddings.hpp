#pragma once

#include "../embeddings.hpp"
#include "layer_norm.hpp"

namespace sparsegrad::finetune {

template <class T, class Context>
void embeddings_forward(Context& ctx, const Embeddings<compute_t<T>>& e, const Batch& batch,
                        const Dropout<compute_t<T>>& dropout, MatrixView<T> xhat, compute_t<T>* rstd,
                        MatrixView<T> y) {
  using C = compute_t<T>;
  const index_t n = e.word.cols;
  for_work_rows<T>(ctx, xhat.block(0, 0, batch.tokens(), n), [&](index_t i, C* z) {
    const auto token = static_cast<std::size_t>(i);
    const C* w = e.word.row(batch.ids[token]);
    const C* p = e.position.row(batch.position_ids[token]);
    const C* t = e.type.row(batch.type_ids[token]);
    const auto sum = [=](auto at) { return at.load(w) + at.load(t) + at.load(p); };
    T* normalized = xhat.row(i);
    T* out = y.row(i);
    if (dropout.on()) {
      rstd[i] =
          normalize_row(e.norm, n, sum, z, [=, mask = mask_row(dropout, i)](auto at, auto x, auto value) {
            at.store(normalized, x);
            at.store(out, value * mask(at));
          });
    } else {
      rstd[i] = normalize_row(e.norm, n, sum, z, [=](auto at, auto x, auto value) {
        at.store(normalized, x);
        at.store(out, value);
      });
    }
  });
}

/// `g` = dy is overwritten. Gradients are added to; each element of a table sums its tokens in their order.
template <class T, class Context>
void embeddings_backward(Context& ctx, const Embeddings<compute_t<T>>& e, const Batch& batch,
                         const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                         const compute_t<T>* rstd, MatrixView<T> g) {
  using C = compute_t<T>;
  const index_t n = g.cols;
  C* const targets[2] = {e.norm.d_gamma, e.norm.d_beta};
  for_rows_with_sums<C, 2>(ctx, g.rows, n, work_row_size<T>(n), targets, [&](index_t i, C* sums) {
    T* gi = g.row(i);
    C* z = work_row<T>(gi, sums + 2 * n);
    const auto put = [=](auto at, auto dz) { at.store(gi, dz); };
    if (dropout.on()) {
      const auto dy = [=, mask = mask_row(dropout, i)](auto at) { return at.load(gi) * mask(at); };
      normalize_row_backward<T>(e.norm, n, dy, xhat.row(i), rstd[i], sums, z, put);
    } else {
      const auto dy = [=](auto at) { return at.load(gi); };
      normalize_row_backward<T>(e.norm, n, dy, xhat.row(i), rstd[i], sums, z, put);
    }
  });
  // A task owns some columns of all tables.
  constexpr index_t columns = 64;
  ctx.parallel_for((n + columns - 1) / columns, [&](index_t task) {
    const index_t first = task * columns;
    const index_t count = std::min(columns, n - first);
    for (index_t i = 0; i < g.rows; ++i) {
      const auto token = static_cast<std::size_t>(i);
      const T* from = g.row(i) + first;
      const auto add = [from, first, count](MatrixView<C> table, std::int32_t row) {
        if (table.empty()) return;
        C* to = table.row(row) + first;
        for_packs<C>(count, [=](auto at) { at.store(to, at.load(to) + at.load(from)); });
      };
      add(e.d_word, batch.ids[token]);
      add(e.d_position, batch.position_ids[token]);
      add(e.d_type, batch.type_ids[token]);
    }
  });
}

}  // namespace sparsegrad::finetune
