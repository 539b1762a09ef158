#pragma once

#include <algorithm>
#include <cmath>

#include <sparsegrad/core/view.hpp>

#include "../batch.hpp"
#include "../causal_shape.hpp"
#include "head_attention.hpp"

namespace sparsegrad::finetune {

/// Attention of decoders (see CausalShape) in the host's memory. A task is one sequence and one head, of the queries in
/// forward, of keys and values in backward; it writes only its own part of every result. Of the scores only those of a
/// block of queries are in memory, and of these only as far as the last of them sees.
template <class T, class Context>
class HostCausalAttention {
 public:
  using C = compute_t<T>;

  explicit HostCausalAttention(const CausalShape& shape) : shape_(shape), scale_(shape.scale<C>()) {}

  /// Elements of working memory for sequences of up to `longest` rows on `threads` threads.
  index_t work_count(index_t longest, int threads) const { return per_worker(longest) * threads; }

  /// Writes `out` [tokens, q_cols] and `log_sums` [heads, tokens].
  void forward(Context& ctx, const Batch& batch, MatrixView<const T> qkv, MatrixView<T> out, C* log_sums,
               C* work) const {
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * shape_.heads, [&](index_t task, int worker) {
      const Place t = place(batch, task, shape_.heads);
      const index_t size = shape_.head_size;
      const index_t key_at = key_column(t.head / shape_.group());
      const Part part{qkv.block(t.first, t.head * size, t.rows, size),
                      qkv.block(t.first, key_at, t.rows, size),
                      qkv.block(t.first, key_at + shape_.kv_cols(), t.rows, size),
                      out.block(t.first, t.head * size, t.rows, size), 0};
      attend(part, log_sums + t.head * qkv.rows + t.first, work + own * worker);
    });
  }

  /// Of tokens that follow others: `qkv` [tokens, cols] are the new tokens'; keys and values of sequence s, its
  /// past[s] earlier tokens and then the new ones, are the rows of keys[s] and values[s] [.., kv_cols]. `work` for
  /// `longest` rows of keys.
  void forward_after(Context& ctx, const Batch& batch, const index_t* past, const MatrixView<T>* keys,
                     const MatrixView<T>* values, index_t longest, MatrixView<const T> qkv, MatrixView<T> out,
                     C* work) const {
    const index_t own = per_worker(longest);
    index_t scores = 0;
    for (std::size_t s = 0; s < batch.lengths.size(); ++s)
      scores += batch.lengths[s] * (past[s] + batch.lengths[s]) * shape_.heads;
    const auto task_of = [&](index_t task, int worker) {
      const Place t = place(batch, task, shape_.heads);
      const index_t size = shape_.head_size;
      const index_t key_at = t.head / shape_.group() * size;
      const index_t before = past[t.sequence];
      const Part part{qkv.block(t.first, t.head * size, t.rows, size),
                      keys[t.sequence].block(0, key_at, before + t.rows, size),
                      values[t.sequence].block(0, key_at, before + t.rows, size),
                      out.block(t.first, t.head * size, t.rows, size), before};
      if (t.rows <= few_queries) {
        attend_one_by_one(part, work + own * worker);
      } else {
        attend(part, nullptr, work + own * worker);
      }
    };
    // What takes less time than waking threads does.
    if (scores * shape_.head_size < index_t{1} << 18) {
      for (index_t task = 0; task < batch.sequences() * shape_.heads; ++task)
        task_of(task, 0);
    } else {
      ctx.parallel_for(batch.sequences() * shape_.heads, task_of);
    }
  }

  /// From d_out [tokens, q_cols] and forward's arguments and results: d_qkv [tokens, cols].
  void backward(Context& ctx, const Batch& batch, MatrixView<const T> qkv, MatrixView<const T> out,
                const C* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv, C* work) const {
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * shape_.kv_heads, [&](index_t task, int worker) {
      const Place t = place(batch, task, shape_.kv_heads);
      const index_t size = shape_.head_size;
      const index_t key_at = key_column(t.head);
      const auto keys_of = [&]<class V>(MatrixView<V> x) { return x.block(t.first, key_at, t.rows, size); };
      const auto values_of = [&]<class V>(MatrixView<V> x) {
        return x.block(t.first, key_at + shape_.kv_cols(), t.rows, size);
      };
      Head own_keys(work + own * worker, keys_of(qkv), values_of(qkv));
      own_keys.begin_backward();
      for (index_t g = 0; g < shape_.group(); ++g) {
        const index_t head = t.head * shape_.group() + g;
        const index_t column = head * size;
        for_blocks(t.rows, 0, [&](index_t r, const QueryBlock& block) {
          const index_t row = t.first + r;
          const auto part = [&]<class V>(MatrixView<V> x) { return x.block(row, column, block.rows, size); };
          own_keys.backward(block, scale_, scale_, NothingDropped<C>(), part(qkv), part(out), part(d_out),
                            log_sums + head * qkv.rows + row, part(d_qkv));
        });
      }
      own_keys.write_key_gradients(keys_of(d_qkv), values_of(d_qkv));
    });
  }

 private:
  static constexpr index_t few_queries = 2;  ///< so many are done one by one, without turning the queries

  using Head = HeadAttention<T>;
  struct Place {
    index_t sequence, head, first, rows;
  };
  /// Queries of one sequence and head, and the keys and values that they see: query i the first past + i + 1.
  struct Part {
    MatrixView<const T> q, k, v;
    MatrixView<T> out;
    index_t past;
  };

  index_t key_column(index_t kv_head) const { return shape_.q_cols() + kv_head * shape_.head_size; }
  index_t per_worker(index_t longest) const { return Head::memory_count(longest, shape_.head_size); }
  static Place place(const Batch& batch, index_t task, index_t heads) {
    const index_t sequence = task / heads;
    const auto s = static_cast<std::size_t>(sequence);
    return {sequence, task % heads, batch.offsets[s], batch.offsets[s + 1] - batch.offsets[s]};
  }
  /// Calls f(first row, block) for blocks of `rows` queries that follow `past` keys.
  template <class F>
  static void for_blocks(index_t rows, index_t past, F&& f) {
    for (index_t r = 0; r < rows; r += Head::block_rows)
      f(r, QueryBlock::causal(std::min(Head::block_rows, rows - r), past + r));
  }

  /// `log_sums` [rows] may be null.
  void attend(const Part& part, C* log_sums, C* memory) const {
    const index_t size = shape_.head_size;
    Head head(memory, part.k, part.v);
    for_blocks(part.q.rows, part.past, [&](index_t r, const QueryBlock& block) {
      head.forward(block, scale_, NothingDropped<C>(), part.q.block(r, 0, block.rows, size),
                   part.out.block(r, 0, block.rows, size), log_sums == nullptr ? nullptr : log_sums + r);
    });
  }

  void attend_one_by_one(const Part& part, C* memory) const {
    const index_t size = shape_.head_size;
    C* const scores = memory;
    for (index_t i = 0; i < part.q.rows; ++i) {
      const index_t own = part.past + i + 1;
      const T* q = part.q.row(i);
      for (index_t j = 0; j < own; ++j) {
        const T* k = part.k.row(j);
        scores[j] = scale_ * sum_of<C>(size, [=](auto at) { return at.load(q) * at.load(k); });
      }
      const C top = max_of(scores, own);
      for_packs<C>(own, [=](auto at) { at.store(scores, exp_of(at.load(scores) - top)); });
      const C factor = C(1) / sum_of<C>(own, [=](auto at) { return at.load(scores); });
      T* out = part.out.row(i);
      for_packs<C>(size, [&](auto at) {
        typename decltype(at)::value sum = {};
        for (index_t j = 0; j < own; ++j)
          sum += scores[j] * at.load(part.v.row(j));
        at.store(out, sum * factor);
      });
    }
  }

  CausalShape shape_;
  C scale_;
};

}  // namespace sparsegrad::finetune
