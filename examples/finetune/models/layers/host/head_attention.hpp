// Attention of one sequence and one head in the memory of a thread: what encoders and decoders share.
#pragma once

#include <algorithm>
#include <limits>

#include <sparsegrad/core/view.hpp>

#include "compact_rows.hpp"
#include "small_gemm.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Some queries and the keys that they see: query i the first `seen` + i, or all `keys` of them where that is more.
struct QueryBlock {
  index_t rows;  ///< 1 to HeadAttention::block_rows
  index_t keys;  ///< that the last query sees
  index_t seen;  ///< that the first query sees, at least 1

  static QueryBlock all_seen(index_t rows, index_t keys) { return {rows, keys, keys}; }
  /// Queries that follow `before` keys, each with a key of its own.
  static QueryBlock causal(index_t rows, index_t before) { return {rows, before + rows, before + 1}; }
};

/// The mask that drops nothing.
template <class C>
struct NothingDropped {
  Pack<C> operator()(index_t, index_t) const { return Pack<C>{} + C(1); }
};

/// Attention of one sequence and head, a block of queries at a time. The lanes of vectors are queries: softmax runs down
/// the keys without a step across lanes, and vectors are full however few keys there are. Products are in
/// C = compute_t<T>.
///
/// A mask is called with a key and the first query of a vector, and returns the multipliers of the probabilities.
template <class T>
class HeadAttention {
 public:
  using C = compute_t<T>;
  static constexpr index_t block_rows = 32;

  /// Elements of the memory for that many keys.
  static index_t memory_count(index_t keys, index_t size) {
    return 4 * Simd<C>::round_up(keys * size) + 5 * block_rows * size + 2 * keys * block_rows;
  }

  /// Reads keys and values [keys, size] to `memory`.
  HeadAttention(C* memory, MatrixView<const T> keys, MatrixView<const T> values)
      : size_(keys.cols), key_count_(keys.rows) {
    const auto take = [&](index_t count) {
      C* const at = memory;
      memory += count;
      return at;
    };
    scores_ = take(key_count_ * block_rows);
    d_scores_ = take(key_count_ * block_rows);
    for (C** block : {&queries_, &d_out_, &turned_queries_, &turned_d_out_, &sums_})
      *block = take(block_rows * size_);
    for (C** of_keys : {&keys_, &values_, &d_keys_, &d_values_})
      *of_keys = take(Simd<C>::round_up(key_count_ * size_));
    read_rows<T>(keys, keys_);
    read_rows<T>(values, values_);
  }

  /// out = mask softmax(scale q k^T) v; `log_sums` (may be null) are the logarithms of softmax's sums.
  template <class Mask>
  void forward(const QueryBlock& block, C scale, const Mask& mask, MatrixView<const T> q, MatrixView<T> out,
               C* log_sums) const {
    const index_t lanes = Simd<C>::round_up(block.rows);
    read_transposed<T>(q, turned_queries_, lanes);
    small_gemm<C>(block.keys, lanes, size_, {keys_, size_, 1}, turned_queries_, lanes, scale, false, scores_,
                  lanes);
    C logarithms[block_rows], factors[block_rows];
    softmax(block, lanes, mask, logarithms, factors);
    if (log_sums != nullptr) std::copy_n(logarithms, block.rows, log_sums);
    small_gemm<C>(block.rows, size_, block.keys, {scores_, 1, lanes}, values_, size_, C(1), false, sums_,
                  size_);
    for (index_t i = 0; i < block.rows; ++i) {
      T* to = out.row(i);
      const C* sum = sums_ + i * size_;
      for_packs<C>(size_, [=, factor = factors[i]](auto at) { at.store(to, at.load(sum) * factor); });
    }
  }

  /// The gradients of keys and values are 0.
  void begin_backward() {
    std::fill_n(d_keys_, key_count_ * size_, C(0));
    std::fill_n(d_values_, key_count_ * size_, C(0));
  }

  /// From forward's arguments and results and d_out: dq = dq_scale times the gradient of scale q; adds to the gradients
  /// of keys and values.
  template <class Mask>
  void backward(const QueryBlock& block, C scale, C dq_scale, const Mask& mask, MatrixView<const T> q,
                MatrixView<const T> out, MatrixView<const T> d_out, const C* log_sums,
                MatrixView<T> dq) const {
    const index_t lanes = Simd<C>::round_up(block.rows);
    read_rows<T>(q, queries_);
    read_rows<T>(d_out, d_out_);
    read_transposed<C>(MatrixView<const C>(queries_, block.rows, size_), turned_queries_, lanes);
    read_transposed<C>(MatrixView<const C>(d_out_, block.rows, size_), turned_d_out_, lanes);
    small_gemm<C>(block.keys, lanes, size_, {keys_, size_, 1}, turned_queries_, lanes, scale, false, scores_,
                  lanes);
    small_gemm<C>(block.keys, lanes, size_, {values_, size_, 1}, turned_d_out_, lanes, C(1), false, d_scores_,
                  lanes);
    C logarithms[block_rows], means[block_rows];
    for (index_t i = 0; i < lanes; ++i) {
      const index_t row = std::min(i, block.rows - 1);
      const T* o = out.row(row);
      const C* d = d_out_ + row * size_;
      logarithms[i] = log_sums[row];
      means[i] = sum_of<C>(size_, [=](auto at) { return at.load(o) * at.load(d); });
    }
    softmax_backward(block, lanes, mask, logarithms, means);
    small_gemm<C>(block.keys, size_, block.rows, {scores_, lanes, 1}, d_out_, size_, C(1), true, d_values_,
                  size_);
    small_gemm<C>(block.rows, size_, block.keys, {d_scores_, 1, lanes}, keys_, size_, dq_scale, false, sums_,
                  size_);
    write_rows<T>(sums_, dq);
    small_gemm<C>(block.keys, size_, block.rows, {d_scores_, lanes, 1}, queries_, size_, scale, true, d_keys_,
                  size_);
  }

  void write_key_gradients(MatrixView<T> d_keys, MatrixView<T> d_values) const {
    write_rows<T>(d_keys_, d_keys);
    write_rows<T>(d_values_, d_values);
  }

 private:
  static constexpr index_t width = Simd<C>::width;

  /// Calls f(j, seen) for the keys that any query of lanes [lane, lane + width) sees, in their order: seen(v, other) is v
  /// where a lane sees the key and `other` elsewhere. Returns their number.
  template <class F>
  static index_t for_keys(const QueryBlock& block, index_t lane, F f) {
    const index_t of_all = std::min(block.keys, block.seen + lane);
    const index_t of_any = std::min(block.keys, block.seen + lane + width - 1);
    for (index_t j = 0; j < of_all; ++j)
      f(j, [](Pack<C> v, C) { return v; });
    for (index_t j = of_all; j < of_any; ++j) {
      const Pack<C> first = Pack<C>{} + static_cast<C>(j - of_all + 1);
      f(j, [=](Pack<C> v, C other) { return lane_numbers<C>() < first ? Pack<C>{} + other : v; });
    }
    return of_any;
  }
  void clear_unseen(C* x, index_t of_any, const QueryBlock& block, index_t lanes, index_t lane) const {
    for (index_t j = of_any; j < block.keys; ++j)
      store_pack<C>(x + j * lanes + lane, Pack<C>{});
  }

  /// scores -> e^(score - top) times the mask; `factors` are one over the sums of the rows.
  template <class Mask>
  void softmax(const QueryBlock& block, index_t lanes, const Mask& mask, C* logarithms, C* factors) const {
    for (index_t lane = 0; lane < lanes; lane += width) {
      C* const scores = scores_ + lane;
      Pack<C> top = load_pack<C>(scores);
      for_keys(block, lane, [&](index_t j, auto seen) {
        const Pack<C> score = seen(load_pack<C>(scores + j * lanes), std::numeric_limits<C>::lowest());
        top = score > top ? score : top;
      });
      Pack<C> sum = {};
      const index_t of_any = for_keys(block, lane, [&](index_t j, auto seen) {
        const Pack<C> power = seen(exp_for<T>(load_pack<C>(scores + j * lanes) - top), C(0));
        sum += power;
        store_pack<C>(scores + j * lanes, power * mask(j, lane));
      });
      clear_unseen(scores_, of_any, block, lanes, lane);
      store_pack<C>(logarithms + lane, top + log_of(sum));
      store_pack<C>(factors + lane, 1 / sum);
    }
  }

  /// scores, d_scores (those of the masked probabilities) -> masked probabilities, gradients of the scores.
  template <class Mask>
  void softmax_backward(const QueryBlock& block, index_t lanes, const Mask& mask, const C* logarithms,
                        const C* means) const {
    for (index_t lane = 0; lane < lanes; lane += width) {
      const Pack<C> logarithm = load_pack<C>(logarithms + lane);
      const Pack<C> mean = load_pack<C>(means + lane);
      const index_t of_any = for_keys(block, lane, [&](index_t j, auto seen) {
        C* const score = scores_ + j * lanes + lane;
        C* const d_score = d_scores_ + j * lanes + lane;
        const Pack<C> probability = seen(exp_for<T>(load_pack<C>(score) - logarithm), C(0));
        const Pack<C> multiplier = mask(j, lane);
        store_pack<C>(d_score, probability * (load_pack<C>(d_score) * multiplier - mean));
        store_pack<C>(score, probability * multiplier);
      });
      clear_unseen(scores_, of_any, block, lanes, lane);
      clear_unseen(d_scores_, of_any, block, lanes, lane);
    }
  }

  index_t size_;
  index_t key_count_;
  C *scores_, *d_scores_;              ///< [keys, lanes]
  C *queries_, *d_out_;                ///< [block_rows, size]
  C *turned_queries_, *turned_d_out_;  ///< [size, lanes]
  C* sums_;                            ///< [block_rows, size]
  C *keys_, *values_;                  ///< [keys, size]
  C *d_keys_, *d_values_;
};

}  // namespace sparsegrad::finetune
