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

namespace sparsegrad::glue {

template <class Backend>
requires(!ThrustBackend<Backend>) struct LayerOps<Backend> {
  using Context = typename Backend::Context;
  static constexpr index_t adamw_chunk = index_t{1} << 16;

  using Placed = PlacedBatch<Backend>;

  template <class T>
  static index_t scratch_bytes(index_t, index_t width) {
    return RowBlocks::most * width * static_cast<index_t>(sizeof(T)) + 4096;
  }

  template <class T>
  static void embeddings_forward(Context& ctx, const Embeddings<T>& e, const Placed& placed,
                                 const Dropout<T>& dropout, MatrixView<T> xhat, T* rstd, MatrixView<T> y) {
    glue::embeddings_forward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, y);
  }
  template <class T>
  static void embeddings_backward(Context& ctx, const Embeddings<T>& e, const Placed& placed,
                                  const Dropout<T>& dropout, MatrixView<const T> xhat, const T* rstd,
                                  MatrixView<T> g) {
    glue::embeddings_backward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, g);
  }
  template <class T>
  static void residual_norm_forward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout,
                                    const T* bias, MatrixView<T> x, MatrixView<const T> residual, T* rstd,
                                    MatrixView<T> y) {
    glue::residual_norm_forward<T>(ctx, norm, dropout, bias, x, residual, rstd, y);
  }
  template <class T>
  static void residual_norm_backward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout,
                                     MatrixView<const T> xhat, const T* rstd, MatrixView<T> g,
                                     MatrixView<const T> extra, MatrixView<T> dx, T* d_bias) {
    glue::residual_norm_backward<T>(ctx, norm, dropout, xhat, rstd, g, extra, dx, d_bias);
  }
  template <class T>
  static void gelu_forward(Context& ctx, const T* bias, MatrixView<T> h, MatrixView<T> out) {
    glue::gelu_forward<T>(ctx, bias, h, out);
  }
  template <class T>
  static void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, T* d_bias) {
    glue::gelu_backward<T>(ctx, slope, g, d_bias);
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, T* target) {
    if (target == nullptr) return;
    T* const targets[1] = {target};
    for_rows_with_sums<T, 1>(ctx, g.rows, g.cols, targets, [&](index_t i, T* sums) {
      T* __restrict s = sums;
      const T* __restrict row = g.row(i);
      for (index_t j = 0; j < g.cols; ++j)
        s[j] += row[j];
    });
  }

  template <class T>
  static index_t attention_work(Context& ctx, const AttentionShape& shape, index_t, index_t longest) {
    return HostAttention<T, Context>(shape).work_count(longest, ctx.threads());
  }
  template <class T>
  static void attention_forward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                const T* bias, const Dropout<T>& dropout, MatrixView<T> qkv,
                                MatrixView<T> out, T* log_sums, T* work) {
    HostAttention<T, Context>(shape).forward(ctx, placed.batch(), bias, dropout, qkv, out, log_sums, work);
  }
  template <class T>
  static void attention_backward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                 const Dropout<T>& dropout, MatrixView<const T> qkv, MatrixView<const T> out,
                                 const T* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv, T* work) {
    HostAttention<T, Context>(shape).backward(ctx, placed.batch(), dropout, qkv, out, log_sums, d_out, d_qkv,
                                              work);
  }

  template <class T>
  static void take_first(Context&, const Placed& placed, MatrixView<const T> x, MatrixView<T> first) {
    for (index_t s = 0; s < first.rows; ++s)
      std::copy_n(x.row(first_row(placed, s)), first.cols, first.row(s));
  }
  template <class T>
  static void put_first(Context&, const Placed& placed, MatrixView<const T> first, MatrixView<T> x) {
    std::fill_n(x.data, x.size(), T(0));
    for (index_t s = 0; s < first.rows; ++s)
      std::copy_n(first.row(s), first.cols, x.row(first_row(placed, s)));
  }
  template <class T>
  static void tanh_forward(Context&, const T* bias, MatrixView<T> x) {
    for (index_t i = 0; i < x.rows; ++i) {
      for (index_t j = 0; j < x.cols; ++j)
        x(i, j) = std::tanh(x(i, j) + bias[j]);
    }
  }
  template <class T>
  static void tanh_backward(Context&, MatrixView<const T> y, MatrixView<T> g) {
    for (index_t i = 0; i < g.rows; ++i) {
      for (index_t j = 0; j < g.cols; ++j)
        g(i, j) *= T(1) - y(i, j) * y(i, j);
    }
  }
  template <class T>
  static void apply_mask(Context&, const Dropout<T>& dropout, MatrixView<T> x) {
    if (!dropout.on()) return;
    for (index_t i = 0; i < x.rows; ++i) {
      const auto mask = dropout.row(i);
      for (index_t j = 0; j < x.cols; ++j)
        x(i, j) *= mask.at(j);
    }
  }

  template <class T>
  static void adamw(Context& ctx, std::span<const AdamWPiece<T>> pieces, bool clear) {
    ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
      const AdamWPiece<T>& p = pieces[static_cast<std::size_t>(number)];
      adamw_update<T>(p.coefficients, p.count, p.weight, p.gradient, p.first, p.second);
      if (clear) std::fill_n(p.gradient, p.count, T(0));
    });
  }
  template <class T>
  static void sums_of_squares(Context& ctx, std::span<const AdamWPiece<T>> pieces, double* sums) {
    ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
      const AdamWPiece<T>& p = pieces[static_cast<std::size_t>(number)];
      sums[number] = sum_of_squares<T>(p.gradient, p.count);
    });
  }

 private:
  static index_t first_row(const Placed& placed, index_t sequence) {
    return placed.batch().offsets[static_cast<std::size_t>(sequence)];
  }
};

}  // namespace sparsegrad::glue
