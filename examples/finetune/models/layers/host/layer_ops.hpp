// LayerOps in the host's memory: side by side over blocks of rows, the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "../layer_ops.hpp"
#include "adamw.hpp"
#include "attention.hpp"
#include "embeddings.hpp"
#include "gelu.hpp"
#include "layer_norm.hpp"

namespace sparsegrad::finetune {

template <class Backend>
requires(!ThrustBackend<Backend>) struct LayerOps<Backend> {
  using Context = typename Backend::Context;
  static constexpr index_t adamw_chunk = index_t{1} << 16;

  using Placed = PlacedBatch<Backend>;

  template <class T>
  static index_t scratch_bytes(index_t, index_t width) {
    return RowBlocks::most * (width + work_row_size<T>(width)) * static_cast<index_t>(sizeof(compute_t<T>)) +
           4096;
  }

  template <class T>
  static void embeddings_forward(Context& ctx, const Embeddings<compute_t<T>>& e, const Placed& placed,
                                 const Dropout<compute_t<T>>& dropout, MatrixView<T> xhat, compute_t<T>* rstd,
                                 MatrixView<T> y) {
    finetune::embeddings_forward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, y);
  }
  template <class T>
  static void embeddings_backward(Context& ctx, const Embeddings<compute_t<T>>& e, const Placed& placed,
                                  const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                  const compute_t<T>* rstd, MatrixView<T> g) {
    finetune::embeddings_backward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, g);
  }
  template <class T>
  static void residual_norm_forward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                    const Dropout<compute_t<T>>& dropout, const compute_t<T>* bias,
                                    MatrixView<T> x, MatrixView<const T> residual, compute_t<T>* rstd,
                                    MatrixView<T> y) {
    finetune::residual_norm_forward<T>(ctx, norm, dropout, bias, x, residual, rstd, y);
  }
  template <class T>
  static void residual_norm_backward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                     const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                     const compute_t<T>* rstd, MatrixView<T> g, MatrixView<const T> extra,
                                     MatrixView<T> dx, compute_t<T>* d_bias) {
    finetune::residual_norm_backward<T>(ctx, norm, dropout, xhat, rstd, g, extra, dx, d_bias);
  }
  template <class T>
  static void gelu_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> h, MatrixView<T> out) {
    finetune::gelu_forward<T>(ctx, bias, h, out);
  }
  template <class T>
  static void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, compute_t<T>* d_bias) {
    finetune::gelu_backward<T>(ctx, slope, g, d_bias);
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* target) {
    if (target == nullptr) return;
    using C = compute_t<T>;
    C* const targets[1] = {target};
    for_rows_with_sums<C, 1>(ctx, g.rows, g.cols, 0, targets, [&](index_t i, C* sums) {
      const T* row = g.row(i);
      for_packs<C>(g.cols, [=](auto at) { at.store(sums, at.load(sums) + at.load(row)); });
    });
  }

  template <class T>
  static index_t attention_work(Context& ctx, const AttentionShape& shape, index_t, index_t longest) {
    return HostAttention<T, Context>(shape).work_count(longest, ctx.threads());
  }
  template <class T>
  static void attention_forward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                const compute_t<T>* bias, const Dropout<compute_t<T>>& dropout,
                                MatrixView<T> qkv, MatrixView<T> out, compute_t<T>* log_sums,
                                compute_t<T>* work) {
    HostAttention<T, Context>(shape).forward(ctx, placed.batch(), bias, dropout, qkv, out, log_sums, work);
  }
  template <class T>
  static void attention_backward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                 const Dropout<compute_t<T>>& dropout, MatrixView<const T> qkv,
                                 MatrixView<const T> out, const compute_t<T>* log_sums,
                                 MatrixView<const T> d_out, MatrixView<T> d_qkv, compute_t<T>* work) {
    HostAttention<T, Context>(shape).backward(ctx, placed.batch(), dropout, qkv, out, log_sums, d_out, d_qkv,
                                              work);
  }

  template <class T>
  static void take_first(Context& ctx, const Placed& placed, MatrixView<const T> x, MatrixView<T> first) {
    for_rows(ctx, first.rows,
             [&](index_t s) { std::copy_n(x.row(first_row(placed, s)), first.cols, first.row(s)); });
  }
  template <class T>
  static void put_first(Context& ctx, const Placed& placed, MatrixView<const T> first, MatrixView<T> x) {
    for_rows(ctx, x.rows, [&](index_t i) { std::fill_n(x.row(i), x.cols, T(0)); });
    for_rows(ctx, first.rows,
             [&](index_t s) { std::copy_n(first.row(s), first.cols, x.row(first_row(placed, s))); });
  }
  template <class T>
  static void tanh_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> x) {
    for_rows(ctx, x.rows, [&](index_t i) {
      T* row = x.row(i);
      for (index_t j = 0; j < x.cols; ++j)
        row[j] = static_cast<T>(std::tanh(row[j] + bias[j]));
    });
  }
  template <class T>
  static void tanh_backward(Context& ctx, MatrixView<const T> y, MatrixView<T> g) {
    using C = compute_t<T>;
    for_rows(ctx, g.rows, [&](index_t i) {
      T* gi = g.row(i);
      const T* yi = y.row(i);
      for_packs<C>(g.cols, [=](auto at) {
        const auto tanh = at.load(yi);
        at.store(gi, at.load(gi) * (C(1) - tanh * tanh));
      });
    });
  }
  template <class T>
  static void apply_mask(Context& ctx, const Dropout<compute_t<T>>& dropout, MatrixView<T> x) {
    if (!dropout.on()) return;
    for_rows(ctx, x.rows, [&](index_t i) {
      T* row = x.row(i);
      const auto mask = mask_row(dropout, i);
      for_packs<compute_t<T>>(x.cols, [=](auto at) { at.store(row, at.load(row) * mask(at)); });
    });
  }

  template <class T>
  static void adamw(Context& ctx, std::span<const AdamWPiece<T>> pieces, bool clear) {
    ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
      adamw_update<T>(pieces[static_cast<std::size_t>(number)], clear);
    });
  }
  template <class T>
  static void sums_of_squares(Context& ctx, std::span<const AdamWPiece<T>> pieces, double* sums) {
    ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
      const AdamWPiece<T>& p = pieces[static_cast<std::size_t>(number)];
      sums[number] = sum_of_squares<compute_t<T>>(p.gradient, p.count);
    });
  }

 private:
  static index_t first_row(const Placed& placed, index_t sequence) {
    return placed.batch().offsets[static_cast<std::size_t>(sequence)];
  }
};

}  // namespace sparsegrad::finetune
