// DecoderOps in the host's memory: side by side over blocks of rows, the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "../decoder_ops.hpp"
#include "../step_profile.hpp"
#include "causal_attention.hpp"
#include "column_sums.hpp"
#include "cross_entropy.hpp"
#include "rms_norm.hpp"
#include "rope.hpp"
#include "swiglu.hpp"

namespace sparsegrad::finetune {

template <class Backend>
requires(!ThrustBackend<Backend>) struct DecoderOps<Backend> {
  using Context = typename Backend::Context;
  using Placed = PlacedBatch<Backend>;

  template <class T>
  static index_t scratch_bytes(index_t, index_t width) {
    return RowBlocks::most * width * static_cast<index_t>(sizeof(compute_t<T>)) + 4096;
  }

  template <class T>
  static void embed_forward(Context& ctx, MatrixView<const compute_t<T>> table, const Placed& placed,
                            MatrixView<T> x) {
    using C = compute_t<T>;
    const std::vector<std::int32_t>& ids = placed.batch().ids;
    profiled_bytes(ctx, Work::embeddings, bytes_of<C>(x.size()) + bytes_of<T>(x.size()), [&] {
      for_rows(ctx, x.rows, [&](index_t i) {
        const C* from = table.row(ids[static_cast<std::size_t>(i)]);
        T* to = x.row(i);
        for_packs<C>(x.cols, [=](auto at) { at.store(to, at.load(from)); });
      });
    });
  }
  template <class T>
  static void embed_backward(Context& ctx, const Placed& placed, MatrixView<const T> g,
                             MatrixView<compute_t<T>> d_table) {
    using C = compute_t<T>;
    const std::vector<std::int32_t>& ids = placed.batch().ids;
    // A task owns some columns of the table.
    constexpr index_t columns = 64;
    profiled_bytes(ctx, Work::embeddings, bytes_of<T>(g.size()) + bytes_of<C>(2 * g.size()), [&] {
      ctx.parallel_for((g.cols + columns - 1) / columns, [&](index_t task) {
        const index_t first = task * columns;
        const index_t count = std::min(columns, g.cols - first);
        for (index_t i = 0; i < g.rows; ++i) {
          const T* from = g.row(i) + first;
          C* to = d_table.row(ids[static_cast<std::size_t>(i)]) + first;
          for_packs<C>(count, [=](auto at) { at.store(to, at.load(to) + at.load(from)); });
        }
      });
    });
  }

  template <class T>
  static void add_rms_norm_forward(Context& ctx, const RmsNorm<compute_t<T>>& norm, const compute_t<T>* bias,
                                   MatrixView<const T> residual, MatrixView<T> x, compute_t<T>* rstd,
                                   MatrixView<T> y) {
    profiled_bytes(ctx, Work::norm, bytes_of<T>((residual.empty() ? 2 : 4) * x.size()),
                   [&] { finetune::add_rms_norm_forward<T>(ctx, norm, bias, residual, x, rstd, y); });
  }
  template <class T>
  static void rms_norm_again(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                             const compute_t<T>* rstd, MatrixView<T> y) {
    profiled_bytes(ctx, Work::norm, bytes_of<T>(2 * x.size()),
                   [&] { finetune::rms_norm_again<T>(ctx, norm, x, rstd, y); });
  }
  template <class T>
  static void rms_norm_backward(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                                const compute_t<T>* rstd, MatrixView<const T> dy, compute_t<T> factor,
                                bool overwrite, MatrixView<T> g) {
    profiled_bytes(ctx, Work::norm, bytes_of<T>((overwrite ? 3 : 4) * x.size()),
                   [&] { finetune::rms_norm_backward<T>(ctx, norm, x, rstd, dy, factor, overwrite, g); });
  }
  template <class T>
  static void swiglu_forward(Context& ctx, MatrixView<const T> gate, MatrixView<const T> up,
                             MatrixView<T> out) {
    profiled_bytes(ctx, Work::activation, bytes_of<T>(3 * out.size()),
                   [&] { finetune::swiglu_forward<T>(ctx, gate, up, out); });
  }
  template <class T>
  static void swiglu_backward(Context& ctx, MatrixView<const T> d_out, MatrixView<T> gate, MatrixView<T> up) {
    profiled_bytes(ctx, Work::activation, bytes_of<T>(5 * d_out.size()),
                   [&] { finetune::swiglu_backward<T>(ctx, d_out, gate, up); });
  }
  template <class T>
  static void rope_forward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                           const Placed& placed, const compute_t<T>* bias, MatrixView<T> qkv) {
    const index_t cols = bias == nullptr ? shape.q_cols() + shape.kv_cols() : qkv.cols;
    profiled_bytes(ctx, Work::rope, bytes_of<T>(2 * qkv.rows * cols), [&] {
      finetune::rope_forward<T>(ctx, shape, table, placed.batch().position_ids.data(), bias, qkv);
    });
  }
  template <class T>
  static void rope_backward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                            const Placed& placed, MatrixView<T> d_qkv) {
    profiled_bytes(ctx, Work::rope, bytes_of<T>(2 * d_qkv.rows * (shape.q_cols() + shape.kv_cols())), [&] {
      finetune::rope_backward<T>(ctx, shape, table, placed.batch().position_ids.data(), d_qkv);
    });
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* target) {
    host_column_sums(ctx, g, target);
  }

  template <class T>
  static index_t attention_work(Context& ctx, const CausalShape& shape, index_t, index_t longest) {
    return HostCausalAttention<T, Context>(shape).work_count(longest, ctx.threads());
  }
  template <class T>
  static void attention_forward(Context& ctx, const CausalShape& shape, const Placed& placed,
                                MatrixView<const T> qkv, MatrixView<T> out, compute_t<T>* log_sums,
                                compute_t<T>* work) {
    // q k^T and p v.
    profiled(
        ctx, Work::attention, [&] { return attention_need<T>(shape, placed, 2, qkv.size() + out.size()); },
        [&] {
          HostCausalAttention<T, Context>(shape).forward(ctx, placed.batch(), qkv, out, log_sums, work);
        });
  }
  template <class T>
  static void attention_after(Context& ctx, const CausalShape& shape, const Placed& placed,
                              std::span<const index_t> past, std::span<const MatrixView<T>> keys,
                              std::span<const MatrixView<T>> values, index_t longest, MatrixView<const T> qkv,
                              MatrixView<T> out, compute_t<T>* work) {
    HostCausalAttention<T, Context>(shape).forward_after(ctx, placed.batch(), past.data(), keys.data(),
                                                         values.data(), longest, qkv, out, work);
  }
  template <class T>
  static void attention_backward(Context& ctx, const CausalShape& shape, const Placed& placed,
                                 MatrixView<const T> qkv, MatrixView<const T> out,
                                 const compute_t<T>* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv,
                                 compute_t<T>* work) {
    // q k^T again, d_o v^T, p^T d_o, ds k and ds^T q.
    profiled(
        ctx, Work::attention,
        [&] { return attention_need<T>(shape, placed, 5, 2 * qkv.size() + 2 * out.size()); },
        [&] {
          HostCausalAttention<T, Context>(shape).backward(ctx, placed.batch(), qkv, out, log_sums, d_out,
                                                          d_qkv, work);
        });
  }

  template <class T>
  static void take_rows(Context& ctx, const Placed& placed, MatrixView<const T> x,
                        MatrixView<const T> residual, MatrixView<T> y) {
    const std::span<const std::int32_t> rows = placed.counted().rows;
    profiled_bytes(ctx, Work::head, bytes_of<T>(3 * y.size()), [&] {
      for_rows(ctx, y.rows, [&](index_t i) {
        const index_t row = rows[static_cast<std::size_t>(i)];
        const T* from = x.row(row);
        const T* other = residual.row(row);
        T* to = y.row(i);
        for_packs<compute_t<T>>(y.cols, [=](auto at) { at.store(to, at.load(from) + at.load(other)); });
      });
    });
  }
  template <class T>
  static void put_rows(Context& ctx, const Placed& placed, MatrixView<const T> y, MatrixView<T> x) {
    const std::span<const std::int32_t> rows = placed.counted().rows;
    profiled_bytes(ctx, Work::head, bytes_of<T>(x.size() + y.size()), [&] {
      for_rows(ctx, x.rows, [&](index_t i) {
        const auto at = std::lower_bound(rows.begin(), rows.end(), static_cast<std::int32_t>(i));
        if (at == rows.end() || *at != i) {
          std::fill_n(x.row(i), x.cols, T(0));
        } else {
          std::copy_n(y.row(at - rows.begin()), x.cols, x.row(i));
        }
      });
    });
  }
  template <class T>
  static void cross_entropy(Context& ctx, const Placed& placed, index_t first,
                            MatrixView<compute_t<T>> logits, double* losses, MatrixView<T> d_logits) {
    const std::int32_t* const targets = placed.counted().targets.data() + first;
    profiled_bytes(ctx, Work::head, bytes_of<compute_t<T>>(logits.size()) + bytes_of<T>(d_logits.size()),
                   [&] { finetune::cross_entropy<T>(ctx, logits, targets, losses, d_logits); });
  }

 private:
  /// Of `products` products of each row with the keys that it sees, and so many elements of T.
  template <class T>
  static StepProfile::Need attention_need(const CausalShape& shape, const Placed& placed, double products,
                                          index_t elements) {
    double pairs = 0;
    for (const index_t length : placed.batch().lengths)
      pairs += static_cast<double>(length) * static_cast<double>(length + 1) / 2;
    return {2 * products * pairs * static_cast<double>(shape.q_cols()), bytes_of<T>(elements),
            is_low_precision<T>};
  }
};

}  // namespace sparsegrad::finetune
