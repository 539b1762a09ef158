#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <sparsegrad/core/view.hpp>

#include "../attention_shape.hpp"
#include "../batch.hpp"
#include "mask.hpp"
#include "small_gemm.hpp"
#include "wide_rows.hpp"

namespace sparsegrad::finetune {

/// Attention (see AttentionShape) in the host's memory. A task is one sequence and head; it writes only its own part of
/// every result. Products are in C = compute_t<T>: a T of 16 bits is widened a task's part at a time.
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
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * heads_, [&](index_t task, int worker) {
      const Task t = place(batch, task, qkv.rows);
      Work w = split(work + own * worker, t.keys);
      add_bias(t, bias, qkv);
      const T* q = qkv.row(t.first) + t.column;
      pack_transposed<T>(q + hidden(), qkv.stride, t.keys, head_size_, w.keys, w.stride);
      const Rows<const C> v = w.wide.read(q + 2 * hidden(), qkv.stride, t.keys, head_size_);
      const Wide block_memory = w.wide;
      C terms[Simd<C>::width] = {};
      for (index_t j = t.keys; j < w.stride; ++j)
        terms[j - w.stride + Simd<C>::width] = std::numeric_limits<C>::lowest();
      const Pack<C> beyond = load_pack<C>(terms);
      for (index_t r = 0; r < t.queries; r += block_rows) {
        const index_t rows = std::min(block_rows, t.queries - r);
        Wide wide = block_memory;
        const Rows<const C> query = wide.read(q + r * qkv.stride, qkv.stride, rows, head_size_);
        small_gemm<C>(rows, w.stride, head_size_, {query.data, query.stride, 1}, w.keys, w.stride, C(1),
                      false, w.p, w.stride);
        C factor[block_rows];
        for (index_t i = 0; i < rows; ++i) {
          C* s = w.p + i * w.stride;
          // In whole vectors: places beyond the keys, which hold 0, get what e^x makes nothing of.
          C* const last = s + w.stride - Simd<C>::width;
          store_pack<C>(last, load_pack<C>(last) + beyond);
          const C top = max_of(s, w.stride);
          for_packs<C>(w.stride, [=](auto at) { at.store(s, exp_of(at.load(s) - top)); });
          const C sum = sum_of<C>(w.stride, [=](auto at) { return at.load(s); });
          log_sums[t.sums + r + i] = top + std::log(sum);
          factor[i] = C(1) / sum;
          if (dropout.on()) {
            const auto mask = mask_row(dropout, t.sums + r + i);
            for_packs<C>(w.stride, [=](auto at) { at.store(s, at.load(s) * mask(at)); });
          }
        }
        T* o = out.row(t.first + r) + t.column;
        const Rows<C> sums = wide.write(o, out.stride, rows, head_size_);
        small_gemm<C>(rows, head_size_, t.keys, {w.p, w.stride, 1}, v.data, v.stride, C(1), false, sums.data,
                      sums.stride);
        for (index_t i = 0; i < rows; ++i) {
          T* oi = o + i * out.stride;
          const C* sum = sums.data + i * sums.stride;
          const C f = factor[i];
          for_packs<C>(head_size_, [=](auto at) { at.store(oi, at.load(sum) * f); });
        }
      }
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
      Work w = split(work + own * worker, t.keys);
      const T* q = qkv.row(t.first) + t.column;
      pack_transposed<T>(q + hidden(), qkv.stride, t.keys, head_size_, w.keys, w.stride);
      pack_transposed<T>(q + 2 * hidden(), qkv.stride, t.keys, head_size_, w.values, w.stride);
      T* dq = d_qkv.row(t.first) + t.column;
      T* dk = dq + hidden();
      T* dv = dk + hidden();
      const Rows<const C> k = w.wide.read(q + hidden(), qkv.stride, t.keys, head_size_);
      const Rows<C> dk_sums = w.wide.write(dk, d_qkv.stride, t.keys, head_size_);
      const Rows<C> dv_sums = w.wide.write(dv, d_qkv.stride, t.keys, head_size_);
      const Wide block_memory = w.wide;
      for (index_t r = 0; r < t.queries; r += block_rows) {
        const index_t rows = std::min(block_rows, t.queries - r);
        Wide wide = block_memory;
        const Rows<const C> query = wide.read(q + r * qkv.stride, qkv.stride, rows, head_size_);
        const Rows<const C> d_o =
            wide.read(d_out.row(t.first + r) + t.column, d_out.stride, rows, head_size_);
        const T* o = out.row(t.first + r) + t.column;
        small_gemm<C>(rows, w.stride, head_size_, {query.data, query.stride, 1}, w.keys, w.stride, C(1),
                      false, w.p, w.stride);
        small_gemm<C>(rows, w.stride, head_size_, {d_o.data, d_o.stride, 1}, w.values, w.stride, C(1), false,
                      w.ds, w.stride);
        for (index_t i = 0; i < rows; ++i) {
          C* p = w.p + i * w.stride;
          C* ds = w.ds + i * w.stride;
          const T* oi = o + i * out.stride;
          const C* di = d_o.data + i * d_o.stride;
          const C log_sum = log_sums[t.sums + r + i];
          const C mean = sum_of<C>(head_size_, [=](auto at) { return at.load(oi) * at.load(di); });
          // In whole vectors: no product reads what that leaves beyond the keys.
          if (dropout.on()) {
            const auto mask = mask_row(dropout, t.sums + r + i);
            for_packs<C>(w.stride, [=](auto at) {
              const auto probability = exp_of(at.load(p) - log_sum);
              const auto multiplier = mask(at);
              at.store(ds, probability * (at.load(ds) * multiplier - mean));
              at.store(p, probability * multiplier);
            });
          } else {
            for_packs<C>(w.stride, [=](auto at) {
              const auto probability = exp_of(at.load(p) - log_sum);
              at.store(ds, probability * (at.load(ds) - mean));
              at.store(p, probability);
            });
          }
        }
        small_gemm<C>(t.keys, head_size_, rows, {w.p, 1, w.stride}, d_o.data, d_o.stride, C(1), r > 0,
                      dv_sums.data, dv_sums.stride);
        T* dq_rows = dq + r * d_qkv.stride;
        const Rows<C> dq_sums = wide.write(dq_rows, d_qkv.stride, rows, head_size_);
        small_gemm<C>(rows, head_size_, t.keys, {w.ds, w.stride, 1}, k.data, k.stride, scale_, false,
                      dq_sums.data, dq_sums.stride);
        put_rows<T>(dq_sums, rows, head_size_, dq_rows, d_qkv.stride);
        small_gemm<C>(t.keys, head_size_, rows, {w.ds, 1, w.stride}, query.data, query.stride, C(1), r > 0,
                      dk_sums.data, dk_sums.stride);
      }
      put_rows<T>(dk_sums, t.keys, head_size_, dk, d_qkv.stride);
      put_rows<T>(dv_sums, t.keys, head_size_, dv, d_qkv.stride);
      for (index_t i = t.keys; i < t.queries; ++i) {
        std::fill_n(dk + i * d_qkv.stride, head_size_, T(0));
        std::fill_n(dv + i * d_qkv.stride, head_size_, T(0));
      }
    });
  }

 private:
  static constexpr index_t block_rows = 48;  ///< queries at a time: a multiple of the product's tile

  struct Task {
    index_t first, queries, keys, column, sums;
  };
  template <class V>
  using Rows = StridedRows<V>;
  using Wide = WideRows<T>;
  struct Work {
    C* keys;    ///< k^T [head_size, stride], zeros beyond the keys
    C* values;  ///< v^T, the same
    C* p;       ///< [block_rows, stride]
    C* ds;
    index_t stride;
    Wide wide;  ///< up to three times [keys, head_size] and [block_rows, head_size]
  };

  index_t hidden() const { return heads_ * head_size_; }
  index_t per_worker(index_t longest) const {
    const index_t wide = is_low_precision<T> ? 3 * (longest + block_rows) * head_size_ : 0;
    return 2 * (head_size_ + block_rows) * Simd<C>::round_up(longest) + Simd<C>::round_up(wide);
  }

  Task place(const Batch& batch, index_t task, index_t tokens) const {
    const auto s = static_cast<std::size_t>(task / heads_);
    const index_t head = task % heads_;
    const index_t first = batch.offsets[s];
    return {first, batch.offsets[s + 1] - first, batch.lengths[s], head * head_size_, head * tokens + first};
  }

  Work split(C* memory, index_t keys) const {
    const index_t stride = Simd<C>::round_up(keys);
    C* const values = memory + head_size_ * stride;
    C* const p = values + head_size_ * stride;
    C* const ds = p + block_rows * stride;
    return {memory, values, p, ds, stride, {ds + block_rows * stride}};
  }

  void add_bias(const Task& t, const C* bias, MatrixView<T> qkv) const {
    for (index_t i = 0; i < t.queries; ++i) {
      for (int part = 0; part < 3; ++part) {
        T* x = qkv.row(t.first + i) + t.column + part * hidden();
        const C* b = bias + t.column + part * hidden();
        const C factor = part == 0 ? scale_ : C(1);
        for_packs<C>(head_size_, [=](auto at) { at.store(x, (at.load(x) + at.load(b)) * factor); });
      }
    }
  }

  index_t heads_;
  index_t head_size_;
  C scale_;
};

}  // namespace sparsegrad::finetune
