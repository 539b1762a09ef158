#pragma once

#include "batch.hpp"
#include "layer_norm.hpp"
#include "model_config.hpp"

namespace sparsegrad::glue {

/// y = dropout(LayerNorm(word[id] + position[p] + type[t])).
template <class T, class Backend>
struct Embeddings {
  using Context = typename Backend::Context;
  MatrixView<const T> word, position, type;
  MatrixView<T> d_word, d_position, d_type;  ///< empty: frozen
  LayerNorm<T> norm;

  /// Throws ModelError naming the first id, position or type beyond its table.
  void check(const Batch& batch) const {
    const auto inside = [](const char* what, const std::vector<std::int32_t>& numbers, index_t end) {
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (numbers[i] < 0 || numbers[i] >= end) {
          throw ModelError(std::string("batch: ") + what + " " + std::to_string(numbers[i]) + " of token " +
                           std::to_string(i) + " is not below " + std::to_string(end));
        }
      }
    };
    inside("id", batch.ids, word.rows);
    inside("position", batch.position_ids, position.rows);
    inside("type", batch.type_ids, type.rows);
  }

  void forward(Context& ctx, const Batch& batch, const Dropout<T>& dropout, MatrixView<T> xhat, T* rstd,
               MatrixView<T> y) const {
    const index_t n = word.cols;
    for_rows(ctx, batch.tokens(), [&](index_t i) {
      const auto token = static_cast<std::size_t>(i);
      const T* __restrict w = word.row(batch.ids[token]);
      const T* __restrict p = position.row(batch.position_ids[token]);
      const T* __restrict t = type.row(batch.type_ids[token]);
      T* __restrict z = xhat.row(i);
      for (index_t j = 0; j < n; ++j)
        z[j] = w[j] + t[j] + p[j];
      T* __restrict out = y.row(i);
      rstd[i] = normalize_row(norm, z, out, n);
      if (dropout.on()) {
        const auto mask = dropout.row(i);
        for_packs<T>(n, [=](auto at) { at.store(out, at.load(out) * mask(at)); });
      }
    });
  }

  /// `g` = dy is overwritten. Gradients are added to; each element of a table sums its tokens in their order.
  void backward(Context& ctx, const Batch& batch, const Dropout<T>& dropout, MatrixView<const T> xhat,
                const T* rstd, MatrixView<T> g) const {
    const index_t n = g.cols;
    T* const targets[2] = {norm.d_gamma, norm.d_beta};
    for_rows_with_sums<T, 2>(ctx, g.rows, n, targets, [&](index_t i, T* sums) {
      T* __restrict gi = g.row(i);
      if (dropout.on()) {
        const auto mask = dropout.row(i);
        for_packs<T>(n, [=](auto at) { at.store(gi, at.load(gi) * mask(at)); });
      }
      normalize_row_backward(norm, gi, xhat.row(i), rstd[i], sums, n);
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
        add(d_word, batch.ids[token]);
        add(d_position, batch.position_ids[token]);
        add(d_type, batch.type_ids[token]);
      }
    });
  }
};

}  // namespace sparsegrad::glue
