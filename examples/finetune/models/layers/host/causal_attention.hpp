#pragma once

#include <algorithm>
#include <cmath>

#include <sparsegrad/core/view.hpp>

#include "../batch.hpp"
#include "../causal_shape.hpp"
#include "small_gemm.hpp"
#include "wide_rows.hpp"

namespace sparsegrad::finetune {

/// Attention of decoders (see CausalShape) in the host's memory. A task is one sequence and one head, of the queries in
/// forward, of keys and values in backward; it writes only its own part of every result. Of the scores only those of
/// `block_rows` queries at a time are in memory, and of these only as far as the last of them sees. Products are in
/// C = compute_t<T>: a T of 16 bits is widened a task's part at a time.
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
      const index_t column = t.head * shape_.head_size;
      const T* k = qkv.row(t.first) + key_column(t.head / shape_.group());
      const Part part{qkv.row(t.first) + column,
                      qkv.stride,
                      k,
                      k + shape_.kv_cols(),
                      qkv.stride,
                      out.row(t.first) + column,
                      out.stride,
                      t.rows,
                      0};
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
      const index_t column = t.head * shape_.head_size;
      const index_t kv_column = t.head / shape_.group() * shape_.head_size;
      const Part part{qkv.row(t.first) + column,
                      qkv.stride,
                      keys[t.sequence].data + kv_column,
                      values[t.sequence].data + kv_column,
                      keys[t.sequence].stride,
                      out.row(t.first) + column,
                      out.stride,
                      t.rows,
                      past[t.sequence]};
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
      Work w = split(work + own * worker, t.rows);
      const T* k = qkv.row(t.first) + key_column(t.head);
      const T* v = k + shape_.kv_cols();
      pack_transposed<T>(k, qkv.stride, t.rows, size, w.keys, w.stride);
      pack_transposed<T>(v, qkv.stride, t.rows, size, w.values, w.stride);
      T* dk = d_qkv.row(t.first) + key_column(t.head);
      T* dv = dk + shape_.kv_cols();
      const Rows<const C> k_rows = w.wide.read(k, qkv.stride, t.rows, size);
      const Rows<C> dk_sums = w.wide.write(dk, d_qkv.stride, t.rows, size);
      const Rows<C> dv_sums = w.wide.write(dv, d_qkv.stride, t.rows, size);
      for (index_t i = 0; i < t.rows; ++i) {
        std::fill_n(dk_sums.data + i * dk_sums.stride, size, C(0));
        std::fill_n(dv_sums.data + i * dv_sums.stride, size, C(0));
      }
      const WideRows<T> block_memory = w.wide;
      for (index_t g = 0; g < shape_.group(); ++g) {
        const index_t head = t.head * shape_.group() + g;
        for (index_t r = 0; r < t.rows; r += block_rows) {
          w.wide = block_memory;
          backward_block(t, head, r, qkv, out, log_sums + head * qkv.rows + t.first, d_out, d_qkv, k_rows,
                         dk_sums, dv_sums, w);
        }
      }
      put_rows<T>(dk_sums, t.rows, size, dk, d_qkv.stride);
      put_rows<T>(dv_sums, t.rows, size, dv, d_qkv.stride);
    });
  }

 private:
  static constexpr index_t block_rows = 48;  ///< queries at a time: a multiple of the product's tile
  static constexpr index_t few_queries = 2;  ///< so many are done one by one, without turning the keys

  template <class V>
  using Rows = StridedRows<V>;
  struct Place {
    index_t sequence, head, first, rows;
  };
  /// Queries of one sequence and head, and the keys and values that they see: query i the first past + i + 1.
  struct Part {
    const T* q;
    index_t q_stride;
    const T *k, *v;
    index_t kv_stride;
    T* out;
    index_t out_stride, rows, past;
  };
  struct Work {
    C* keys;    ///< k^T [head_size, stride], zeros beyond the keys
    C* values;  ///< v^T, the same
    C* p;       ///< [block_rows, stride]
    C* ds;
    index_t stride;
    WideRows<T> wide;  ///< up to three times [keys, head_size] and [block_rows, head_size]
  };

  index_t key_column(index_t kv_head) const { return shape_.q_cols() + kv_head * shape_.head_size; }
  index_t per_worker(index_t longest) const {
    const index_t wide = is_low_precision<T> ? 3 * (longest + block_rows) * shape_.head_size : 0;
    return 2 * (shape_.head_size + block_rows) * Simd<C>::round_up(longest) + Simd<C>::round_up(wide);
  }
  static Place place(const Batch& batch, index_t task, index_t heads) {
    const index_t sequence = task / heads;
    const auto s = static_cast<std::size_t>(sequence);
    return {sequence, task % heads, batch.offsets[s], batch.offsets[s + 1] - batch.offsets[s]};
  }
  Work split(C* memory, index_t keys) const {
    const index_t stride = Simd<C>::round_up(keys);
    C* const values = memory + shape_.head_size * stride;
    C* const p = values + shape_.head_size * stride;
    C* const ds = p + block_rows * stride;
    return {memory, values, p, ds, stride, {ds + block_rows * stride}};
  }

  /// `log_sums` [rows] may be null.
  void attend(const Part& part, C* log_sums, C* memory) const {
    const index_t size = shape_.head_size;
    const index_t keys = part.past + part.rows;
    Work w = split(memory, keys);
    pack_transposed<T>(part.k, part.kv_stride, keys, size, w.keys, w.stride);
    const Rows<const C> v = w.wide.read(part.v, part.kv_stride, keys, size);
    const WideRows<T> block_memory = w.wide;
    for (index_t r = 0; r < part.rows; r += block_rows) {
      const index_t rows = std::min(block_rows, part.rows - r);
      const index_t seen = part.past + r + rows;  // by the last row
      WideRows<T> wide = block_memory;
      const Rows<const C> query = wide.read(part.q + r * part.q_stride, part.q_stride, rows, size);
      small_gemm<C>(rows, Simd<C>::round_up(seen), size, {query.data, query.stride, 1}, w.keys, w.stride,
                    scale_, false, w.p, w.stride);
      C factor[block_rows];
      for (index_t i = 0; i < rows; ++i) {
        C* s = w.p + i * w.stride;
        const index_t own = part.past + r + i + 1;
        const C top = max_of(s, own);
        for_packs<C>(own, [=](auto at) { at.store(s, exp_of(at.load(s) - top)); });
        const C sum = sum_of<C>(own, [=](auto at) { return at.load(s); });
        std::fill(s + own, s + seen, C(0));
        if (log_sums != nullptr) log_sums[r + i] = top + std::log(sum);
        factor[i] = C(1) / sum;
      }
      T* o = part.out + r * part.out_stride;
      const Rows<C> sums = wide.write(o, part.out_stride, rows, size);
      small_gemm<C>(rows, size, seen, {w.p, w.stride, 1}, v.data, v.stride, C(1), false, sums.data,
                    sums.stride);
      for (index_t i = 0; i < rows; ++i) {
        T* oi = o + i * part.out_stride;
        const C* sum = sums.data + i * sums.stride;
        const C f = factor[i];
        for_packs<C>(size, [=](auto at) { at.store(oi, at.load(sum) * f); });
      }
    }
  }

  void attend_one_by_one(const Part& part, C* memory) const {
    const index_t size = shape_.head_size;
    C* const scores = memory;
    for (index_t i = 0; i < part.rows; ++i) {
      const index_t own = part.past + i + 1;
      const T* q = part.q + i * part.q_stride;
      for (index_t j = 0; j < own; ++j) {
        const T* k = part.k + j * part.kv_stride;
        scores[j] = scale_ * sum_of<C>(size, [=](auto at) { return at.load(q) * at.load(k); });
      }
      const C top = max_of(scores, own);
      for_packs<C>(own, [=](auto at) { at.store(scores, exp_of(at.load(scores) - top)); });
      const C factor = C(1) / sum_of<C>(own, [=](auto at) { return at.load(scores); });
      T* out = part.out + i * part.out_stride;
      for_packs<C>(size, [&](auto at) {
        typename decltype(at)::value sum = {};
        for (index_t j = 0; j < own; ++j)
          sum += scores[j] * at.load(part.v + j * part.kv_stride);
        at.store(out, sum * factor);
      });
    }
  }

  void backward_block(const Place& t, index_t head, index_t r, MatrixView<const T> qkv,
                      MatrixView<const T> out, const C* log_sums, MatrixView<const T> d_out,
                      MatrixView<T> d_qkv, Rows<const C> k, Rows<C> dk, Rows<C> dv, Work& w) const {
    const index_t size = shape_.head_size;
    const index_t column = head * size;
    const index_t rows = std::min(block_rows, t.rows - r);
    const index_t seen = r + rows;
    const index_t padded = Simd<C>::round_up(seen);
    const Rows<const C> query = w.wide.read(qkv.row(t.first + r) + column, qkv.stride, rows, size);
    const Rows<const C> d_o = w.wide.read(d_out.row(t.first + r) + column, d_out.stride, rows, size);
    const T* o = out.row(t.first + r) + column;
    small_gemm<C>(rows, padded, size, {query.data, query.stride, 1}, w.keys, w.stride, scale_, false, w.p,
                  w.stride);
    small_gemm<C>(rows, padded, size, {d_o.data, d_o.stride, 1}, w.values, w.stride, C(1), false, w.ds,
                  w.stride);
    for (index_t i = 0; i < rows; ++i) {
      C* p = w.p + i * w.stride;
      C* ds = w.ds + i * w.stride;
      const T* oi = o + i * out.stride;
      const C* di = d_o.data + i * d_o.stride;
      const index_t own = r + i + 1;
      const C log_sum = log_sums[r + i];
      const C mean = sum_of<C>(size, [=](auto at) { return at.load(oi) * at.load(di); });
      for_packs<C>(own, [=](auto at) {
        const auto probability = exp_of(at.load(p) - log_sum);
        at.store(ds, probability * (at.load(ds) - mean));
        at.store(p, probability);
      });
      std::fill(p + own, p + seen, C(0));
      std::fill(ds + own, ds + seen, C(0));
    }
    small_gemm<C>(seen, size, rows, {w.p, 1, w.stride}, d_o.data, d_o.stride, C(1), true, dv.data, dv.stride);
    T* dq = d_qkv.row(t.first + r) + column;
    const Rows<C> dq_sums = w.wide.write(dq, d_qkv.stride, rows, size);
    small_gemm<C>(rows, size, seen, {w.ds, w.stride, 1}, k.data, k.stride, scale_, false, dq_sums.data,
                  dq_sums.stride);
    put_rows<T>(dq_sums, rows, size, dq, d_qkv.stride);
    small_gemm<C>(seen, size, rows, {w.ds, 1, w.stride}, query.data, query.stride, scale_, true, dk.data,
                  dk.stride);
  }

  CausalShape shape_;
  C scale_;
};

}  // namespace sparsegrad::finetune
