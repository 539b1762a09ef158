#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <sparsegrad/core/view.hpp>

#include "../attention_shape.hpp"
#include "../batch.hpp"
#include "mask.hpp"
#include "small_gemm.hpp"

namespace sparsegrad::glue {

/// Attention (see AttentionShape) in the host's memory. A task is one sequence and head; it writes only its own part of
/// every result.
template <class T, class Context>
class HostAttention {
 public:
  explicit HostAttention(const AttentionShape& shape)
      : heads_(shape.heads), head_size_(shape.head_size), scale_(shape.scale<T>()) {}

  /// Elements of working memory for sequences of up to `longest` rows on `threads` threads.
  index_t work_count(index_t longest, int threads) const { return per_worker(longest) * threads; }

  /// `qkv` [tokens, 3 hidden] holds x Wq^T | x Wk^T | x Wv^T; `bias` [3 hidden] is added to it here and the part of
  /// the queries scaled, which backward relies on. Writes `out` [tokens, hidden] and `log_sums` [heads, tokens].
  void forward(Context& ctx, const Batch& batch, const T* bias, const Dropout<T>& dropout, MatrixView<T> qkv,
               MatrixView<T> out, T* log_sums, T* work) const {
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * heads_, [&](index_t task, int worker) {
      const Task t = place(batch, task, qkv.rows);
      const Work w = split(work + own * worker, t.keys);
      add_bias(t, bias, qkv);
      const T* q = qkv.row(t.first) + t.column;
      pack_transposed(q + hidden(), qkv.stride, t.keys, w);
      const T* v = q + 2 * hidden();
      for (index_t r = 0; r < t.queries; r += block_rows) {
        const index_t rows = std::min(block_rows, t.queries - r);
        small_gemm<T>(rows, w.stride, head_size_, {q + r * qkv.stride, qkv.stride, 1}, w.keys, w.stride, T(1),
                      false, w.p, w.stride);
        T factor[block_rows];
        for (index_t i = 0; i < rows; ++i) {
          T* __restrict s = w.p + i * w.stride;
          const T top = max_of(s, t.keys);
          for_packs<T>(t.keys, [=](auto at) { at.store(s, exp_of(at.load(s) - top)); });
          const T sum = sum_of<T>(t.keys, [s](index_t j) { return s[j]; });
          log_sums[t.sums + r + i] = top + std::log(sum);
          factor[i] = T(1) / sum;
          if (dropout.on()) {
            const auto mask = mask_row(dropout, t.sums + r + i);
            for_packs<T>(t.keys, [=](auto at) { at.store(s, at.load(s) * mask(at)); });
          }
        }
        T* o = out.row(t.first + r) + t.column;
        small_gemm<T>(rows, head_size_, t.keys, {w.p, w.stride, 1}, v, qkv.stride, T(1), false, o,
                      out.stride);
        for (index_t i = 0; i < rows; ++i) {
          for (index_t c = 0; c < head_size_; ++c)
            o[i * out.stride + c] *= factor[i];
        }
      }
    });
  }

  /// From d_out [tokens, hidden] and forward's results: d_qkv [tokens, 3 hidden], the gradient of qkv as it was before
  /// forward (whose column sums are the bias's gradient).
  void backward(Context& ctx, const Batch& batch, const Dropout<T>& dropout, MatrixView<const T> qkv,
                MatrixView<const T> out, const T* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv,
                T* work) const {
    const index_t own = per_worker(batch.longest());
    ctx.parallel_for(batch.sequences() * heads_, [&](index_t task, int worker) {
      const Task t = place(batch, task, qkv.rows);
      const Work w = split(work + own * worker, t.keys);
      const T* q = qkv.row(t.first) + t.column;
      const T* k = q + hidden();
      pack_transposed(k, qkv.stride, t.keys, w);
      pack_transposed(q + 2 * hidden(), qkv.stride, t.keys, w, w.values);
      T* dq = d_qkv.row(t.first) + t.column;
      T* dk = dq + hidden();
      T* dv = dk + hidden();
      for (index_t r = 0; r < t.queries; r += block_rows) {
        const index_t rows = std::min(block_rows, t.queries - r);
        const T* query = q + r * qkv.stride;
        const T* d_o = d_out.row(t.first + r) + t.column;
        const T* o = out.row(t.first + r) + t.column;
        small_gemm<T>(rows, w.stride, head_size_, {query, qkv.stride, 1}, w.keys, w.stride, T(1), false, w.p,
                      w.stride);
        small_gemm<T>(rows, w.stride, head_size_, {d_o, d_out.stride, 1}, w.values, w.stride, T(1), false,
                      w.ds, w.stride);
        for (index_t i = 0; i < rows; ++i) {
          T* __restrict p = w.p + i * w.stride;
          T* __restrict ds = w.ds + i * w.stride;
          const T* __restrict oi = o + i * out.stride;
          const T* __restrict di = d_o + i * d_out.stride;
          const T log_sum = log_sums[t.sums + r + i];
          const T mean = sum_of<T>(head_size_, [oi, di](index_t c) { return oi[c] * di[c]; });
          if (dropout.on()) {
            const auto mask = mask_row(dropout, t.sums + r + i);
            for_packs<T>(t.keys, [=](auto at) {
              const auto probability = exp_of(at.load(p) - log_sum);
              const auto multiplier = mask(at);
              at.store(ds, probability * (at.load(ds) * multiplier - mean));
              at.store(p, probability * multiplier);
            });
          } else {
            for_packs<T>(t.keys, [=](auto at) {
              const auto probability = exp_of(at.load(p) - log_sum);
              at.store(ds, probability * (at.load(ds) - mean));
              at.store(p, probability);
            });
          }
        }
        small_gemm<T>(t.keys, head_size_, rows, {w.p, 1, w.stride}, d_o, d_out.stride, T(1), r > 0, dv,
                      d_qkv.stride);
        small_gemm<T>(rows, head_size_, t.keys, {w.ds, w.stride, 1}, k, qkv.stride, scale_, false,
                      dq + r * d_qkv.stride, d_qkv.stride);
        small_gemm<T>(t.keys, head_size_, rows, {w.ds, 1, w.stride}, query, qkv.stride, T(1), r > 0, dk,
                      d_qkv.stride);
      }
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
  struct Work {
    T* keys;    ///< k^T [head_size, stride], zeros beyond the keys
    T* values;  ///< v^T, the same
    T* p;       ///< [block_rows, stride]
    T* ds;
    index_t stride;
  };

  index_t hidden() const { return heads_ * head_size_; }
  index_t per_worker(index_t longest) const {
    return 2 * (head_size_ + block_rows) * Simd<T>::round_up(longest);
  }

  Task place(const Batch& batch, index_t task, index_t tokens) const {
    const auto s = static_cast<std::size_t>(task / heads_);
    const index_t head = task % heads_;
    const index_t first = batch.offsets[s];
    return {first, batch.offsets[s + 1] - first, batch.lengths[s], head * head_size_, head * tokens + first};
  }

  Work split(T* memory, index_t keys) const {
    const index_t stride = Simd<T>::round_up(keys);
    const index_t packed = head_size_ * stride;
    return {memory, memory + packed, memory + 2 * packed, memory + 2 * packed + block_rows * stride, stride};
  }

  void add_bias(const Task& t, const T* bias, MatrixView<T> qkv) const {
    for (index_t i = 0; i < t.queries; ++i) {
      for (int part = 0; part < 3; ++part) {
        T* __restrict x = qkv.row(t.first + i) + t.column + part * hidden();
        const T* __restrict b = bias + t.column + part * hidden();
        const T factor = part == 0 ? scale_ : T(1);
        for (index_t c = 0; c < head_size_; ++c)
          x[c] = (x[c] + b[c]) * factor;
      }
    }
  }

  void pack_transposed(const T* x, index_t stride, index_t keys, const Work& w, T* target = nullptr) const {
    T* to = target == nullptr ? w.keys : target;
    for (index_t c = 0; c < head_size_; ++c) {
      T* row = to + c * w.stride;
      for (index_t j = 0; j < keys; ++j)
        row[j] = x[j * stride + c];
      for (index_t j = keys; j < w.stride; ++j)
        row[j] = T(0);
    }
  }

  index_t heads_;
  index_t head_size_;
  T scale_;
};

}  // namespace sparsegrad::glue
