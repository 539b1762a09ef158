// LayerOps in the host's memory: side by side over blocks of rows, the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "../layer_ops.hpp"
#include "../step_profile.hpp"
#include "adamw.hpp"
#include "attention.hpp"
#include "column_sums.hpp"
#include "embeddings.hpp"
#include "gelu.hpp"
#include "layer_norm.hpp"

namespace sparsegrad::finetune {

template <class Backend>
requires(!ThrustBackend<Backend>) struct LayerOps<Backend> {
  using Context = typename Backend::Context;
  static constexpr index_t adamw_chunk = index_t{1} << 14;
  static constexpr index_t adamw_block = finetune::adamw_block;

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
    // Three rows of tables are read.
    const double bytes = bytes_of<compute_t<T>>(3 * y.size()) + bytes_of<T>(2 * y.size());
    profiled_bytes(ctx, Work::embeddings, bytes,
                   [&] { finetune::embeddings_forward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, y); });
  }
  template <class T>
  static void embeddings_backward(Context& ctx, const Embeddings<compute_t<T>>& e, const Placed& placed,
                                  const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                  const compute_t<T>* rstd, MatrixView<T> g) {
    const double tables = e.trains_tables() ? 6 : 0;
    const double bytes = tables * bytes_of<compute_t<T>>(g.size()) + bytes_of<T>(2 * g.size());
    profiled_bytes(ctx, Work::embeddings, bytes,
                   [&] { finetune::embeddings_backward<T>(ctx, e, placed.batch(), dropout, xhat, rstd, g); });
  }
  template <class T>
  static void residual_norm_forward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                    const Dropout<compute_t<T>>& dropout, const compute_t<T>* bias,
                                    MatrixView<T> x, MatrixView<const T> residual, compute_t<T>* rstd,
                                    MatrixView<T> y) {
    profiled_bytes(ctx, Work::norm, bytes_of<T>(4 * x.size()), [&] {
      finetune::residual_norm_forward<T>(ctx, norm, dropout, bias, x, residual, rstd, y);
    });
  }
  template <class T>
  static void residual_norm_backward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                     const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                     const compute_t<T>* rstd, MatrixView<T> g, MatrixView<const T> extra,
                                     MatrixView<T> dx, compute_t<T>* d_bias) {
    const double bytes = bytes_of<T>(3 * g.size() + extra.size() + (dropout.on() ? dx.size() : 0));
    profiled_bytes(ctx, Work::norm, bytes, [&] {
      finetune::residual_norm_backward<T>(ctx, norm, dropout, xhat, rstd, g, extra, dx, d_bias);
    });
  }
  template <class T>
  static void gelu_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> h, MatrixView<T> out) {
    profiled_bytes(ctx, Work::activation, bytes_of<T>(3 * h.size()),
                   [&] { finetune::gelu_forward<T>(ctx, bias, h, out); });
  }
  template <class T>
  static void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, compute_t<T>* d_bias) {
    profiled_bytes(ctx, Work::activation, bytes_of<T>(3 * g.size()),
                   [&] { finetune::gelu_backward<T>(ctx, slope, g, d_bias); });
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* target) {
    host_column_sums(ctx, g, target);
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
    // q k^T and p v.
    profiled(
        ctx, Work::attention,
        [&] { return attention_need<T>(placed, out.cols, 2, qkv.size() * 2 + out.size()); },
        [&] {
          HostAttention<T, Context>(shape).forward(ctx, placed.batch(), bias, dropout, qkv, out, log_sums,
                                                   work);
        });
  }
  template <class T>
  static void attention_backward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                 const Dropout<compute_t<T>>& dropout, MatrixView<const T> qkv,
                                 MatrixView<const T> out, const compute_t<T>* log_sums,
                                 MatrixView<const T> d_out, MatrixView<T> d_qkv, compute_t<T>* work) {
    // q k^T again, d_o v^T, p^T d_o, ds k and ds^T q.
    profiled(
        ctx, Work::attention,
        [&] { return attention_need<T>(placed, out.cols, 5, qkv.size() * 2 + out.size() * 2); },
        [&] {
          HostAttention<T, Context>(shape).backward(ctx, placed.batch(), dropout, qkv, out, log_sums, d_out,
                                                    d_qkv, work);
        });
  }

  template <class T>
  static void take_first(Context& ctx, const Placed& placed, MatrixView<const T> x, MatrixView<T> first) {
    profiled_bytes(ctx, Work::head, bytes_of<T>(2 * first.size()), [&] {
      for_rows(ctx, first.rows,
               [&](index_t s) { std::copy_n(x.row(first_row(placed, s)), first.cols, first.row(s)); });
    });
  }
  template <class T>
  static void put_first(Context& ctx, const Placed& placed, MatrixView<const T> first, MatrixView<T> x) {
    profiled_bytes(ctx, Work::head, bytes_of<T>(x.size() + 2 * first.size()), [&] {
      for_rows(ctx, x.rows, [&](index_t i) { std::fill_n(x.row(i), x.cols, T(0)); });
      for_rows(ctx, first.rows,
               [&](index_t s) { std::copy_n(first.row(s), first.cols, x.row(first_row(placed, s))); });
    });
  }
  template <class T>
  static void tanh_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> x) {
    profiled_bytes(ctx, Work::head, bytes_of<T>(2 * x.size()), [&] {
      for_rows(ctx, x.rows, [&](index_t i) {
        T* row = x.row(i);
        for (index_t j = 0; j < x.cols; ++j)
          row[j] = static_cast<T>(std::tanh(row[j] + bias[j]));
      });
    });
  }
  template <class T>
  static void tanh_backward(Context& ctx, MatrixView<const T> y, MatrixView<T> g) {
    using C = compute_t<T>;
    profiled_bytes(ctx, Work::head, bytes_of<T>(3 * g.size()), [&] {
      for_rows(ctx, g.rows, [&](index_t i) {
        T* gi = g.row(i);
        const T* yi = y.row(i);
        for_packs<C>(g.cols, [=](auto at) {
          const auto tanh = at.load(yi);
          at.store(gi, at.load(gi) * (C(1) - tanh * tanh));
        });
      });
    });
  }
  template <class T>
  static void apply_mask(Context& ctx, const Dropout<compute_t<T>>& dropout, MatrixView<T> x) {
    if (!dropout.on()) return;
    profiled_bytes(ctx, Work::head, bytes_of<T>(2 * x.size()), [&] {
      for_rows(ctx, x.rows, [&](index_t i) {
        T* row = x.row(i);
        const auto mask = mask_row(dropout, i);
        for_packs<compute_t<T>>(x.cols, [=](auto at) { at.store(row, at.load(row) * mask(at)); });
      });
    });
  }

  template <class T>
  static void adamw(Context& ctx, std::span<const AdamWPiece<T>> pieces, bool clear) {
    const auto need = [&] {
      double bytes = 0;
      // Weight and moments are read and written, the gradient is read.
      for (const AdamWPiece<T>& p : pieces)
        bytes += bytes_of<compute_t<T>>(7 * p.count) + (p.rounded == nullptr ? 0 : bytes_of<T>(p.count));
      return StepProfile::Need{0, bytes};
    };
    profiled(ctx, Work::adamw, need, [&] {
      ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
        adamw_update<T>(pieces[static_cast<std::size_t>(number)], clear);
      });
    });
  }
  template <class T>
  static void sums_of_squares(Context& ctx, std::span<const AdamWPiece<T>> pieces, double* sums) {
    double bytes = 0;
    for (const AdamWPiece<T>& p : pieces)
      bytes += bytes_of<compute_t<T>>(p.count);
    profiled_bytes(ctx, Work::adamw, bytes, [&] {
      ctx.parallel_for(static_cast<index_t>(pieces.size()), [&](index_t number) {
        const AdamWPiece<T>& p = pieces[static_cast<std::size_t>(number)];
        sums[number] = sum_of_squares<compute_t<T>>(p.gradient, p.count);
      });
    });
  }

 private:
  /// Of `products` products of each sequence's rows with its keys, and so many elements of T.
  template <class T>
  static StepProfile::Need attention_need(const Placed& placed, index_t hidden, double products,
                                          index_t elements) {
    const Batch& batch = placed.batch();
    double pairs = 0;
    for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
      const index_t queries = batch.offsets[s + 1] - batch.offsets[s];
      pairs += static_cast<double>(queries) * static_cast<double>(batch.lengths[s]);
    }
    return {2 * products * pairs * static_cast<double>(hidden), bytes_of<T>(elements), is_low_precision<T>};
  }

  static index_t first_row(const Placed& placed, index_t sequence) {
    return placed.batch().offsets[static_cast<std::size_t>(sequence)];
  }
};

}  // namespace sparsegrad::finetune
