#pragma once

#include <algorithm>

#include <sparsegrad/core/view.hpp>

#include "../attention_shape.hpp"
#include "../batch.hpp"
#include "head_attention.hpp"
#include "mask.hpp"
#include "row_blocks.hpp"

namespace sparsegrad::finetune {

/// Attention (see AttentionShape) in the host's memory. A task is one sequence and head; it writes only its own part of
/// every result.
template <class T, class Context>
class HostAttention {
 public:
  using C = compute_t<T>;

  explicit HostAttention(const AttentionShape& shape)
      : heads_(shape.heads), head_size_(shape.head_size), scale_(shape.scale<C>()) {}

  /// Elements of working memory for sequences of up to `longest` rows on `threads` threads.
  index_t work_count(index_t longest, int threads) const { return per_worker(longest) * threads; }

  /// `qkv` [tokens, 3 hidden] holds x Wq^T | x Wk^T | x Wv^T; `bias` [3 hidden] is added to it here and the part of
  /// the queries scaled, which backward relies on. Writes `out` [tokens, hidden] and `log_sums` [heads, tokens].
  void forward(Context& ctx, const Batch& batch, const C* bias, const Dropout<C>& dropout, MatrixView<T> qkv,
               MatrixView<T> out, C* log_sums, C* work) const {
    add_bias(ctx, bias, qkv);
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * heads_, [&](index_t task, int worker) {
      const Task t = place(batch, task, qkv.rows);
      Head head(work + own * worker, keys_of(t, 1, qkv), keys_of(t, 2, qkv));
      for_blocks(t, dropout, [&](index_t r, const QueryBlock& block, const auto& mask) {
        head.forward(block, C(1), mask, rows_of(t, r, block, qkv), rows_of(t, r, block, out),
                     log_sums + t.sums + r);
      });
    });
  }

  /// From d_out [tokens, hidden] and forward's results: d_qkv [tokens, 3 hidden], the gradient of qkv as it was before
  /// forward (whose column sums are the bias's gradient).
  void backward(Context& ctx, const Batch& batch, const Dropout<C>& dropout, MatrixView<const T> qkv,
                MatrixView<const T> out, const C* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv,
                C* work) const {
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * heads_, [&](index_t task, int worker) {
      const Task t = place(batch, task, qkv.rows);
      Head head(work + own * worker, keys_of(t, 1, qkv), keys_of(t, 2, qkv));
      head.begin_backward();
      for_blocks(t, dropout, [&](index_t r, const QueryBlock& block, const auto& mask) {
        head.backward(block, C(1), scale_, mask, rows_of(t, r, block, qkv), rows_of(t, r, block, out),
                      rows_of(t, r, block, d_out), log_sums + t.sums + r, rows_of(t, r, block, d_qkv));
      });
      head.write_key_gradients(keys_of(t, 1, d_qkv), keys_of(t, 2, d_qkv));
      // Rows that are no keys, of all heads at once: whole rows are written much faster than parts of them.
      if (t.column == 0)
        for (index_t i = t.keys; i < t.queries; ++i)
          std::fill_n(d_qkv.row(t.first + i) + hidden(), 2 * hidden(), T(0));
    });
  }

 private:
  using Head = HeadAttention<T>;
  struct Task {
    index_t first, queries, keys, column, sums;
  };

  index_t hidden() const { return heads_ * head_size_; }
  index_t per_worker(index_t longest) const { return Head::memory_count(longest, head_size_); }

  Task place(const Batch& batch, index_t task, index_t tokens) const {
    const auto s = static_cast<std::size_t>(task / heads_);
    const index_t head = task % heads_;
    const index_t first = batch.offsets[s];
    return {first, batch.offsets[s + 1] - first, batch.lengths[s], head * head_size_, head * tokens + first};
  }

  /// The rows of a block of queries and the head's columns, which are those of the queries in qkv.
  template <class V>
  MatrixView<V> rows_of(const Task& t, index_t first, const QueryBlock& block, MatrixView<V> x) const {
    return x.block(t.first + first, t.column, block.rows, head_size_);
  }

  /// The head's keys (part 1 of qkv) or values (part 2).
  template <class V>
  MatrixView<V> keys_of(const Task& t, int part, MatrixView<V> x) const {
    return x.block(t.first, t.column + part * hidden(), t.keys, head_size_);
  }

  /// Calls f(first row, block, mask) for the blocks of a task's queries.
  template <class F>
  static void for_blocks(const Task& t, const Dropout<C>& dropout, F&& f) {
    for (index_t r = 0; r < t.queries; r += Head::block_rows) {
      const QueryBlock block = QueryBlock::all_seen(std::min(Head::block_rows, t.queries - r), t.keys);
      if (dropout.on()) {
        f(r, block, MaskColumns<C, Head::block_rows>(dropout, t.sums + r, block.rows));
      } else {
        f(r, block, NothingDropped<C>());
      }
    }
  }

  void add_bias(Context& ctx, const C* bias, MatrixView<T> qkv) const {
    for_rows(ctx, qkv.rows, [&](index_t i) {
      T* q = qkv.row(i);
      for_packs<C>(hidden(),
                   [=, scale = scale_](auto at) { at.store(q, (at.load(q) + at.load(bias)) * scale); });
      T* kv = q + hidden();
      const C* kv_bias = bias + hidden();
      for_packs<C>(2 * hidden(), [=](auto at) { at.store(kv, at.load(kv) + at.load(kv_bias)); });
    });
  }

  index_t heads_;
  index_t head_size_;
  C scale_;
};

}  // namespace sparsegrad::finetune
