// DecoderOps on a GPU, or on Thrust's host system.
#pragma once

#include <span>

#include "../decoder_ops.hpp"
#include "attention.cuh"
#include "cross_entropy.cuh"
#include "embeddings.cuh"
#include "rms_norm.cuh"
#include "rope.cuh"
#include "swiglu.cuh"
#include "token_rows.cuh"

namespace sparsegrad::finetune {

template <class Backend, class Placed>
struct DeviceDecoderOps {
  using Context = typename Backend::Context;
  using System = typename Backend::System;

  /// More than partial column sums take; the embeddings' pieces have at most a row for each token.
  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    return tokens * width * static_cast<index_t>(sizeof(compute_t<T>)) + (index_t{1} << 20);
  }

  template <class T>
  static void embed_forward(Context& ctx, MatrixView<const compute_t<T>> table, const Placed& placed,
                            MatrixView<T> x) {
    device::with_packs(
        x.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, x.rows, packs,
                                              device::EmbedRow<T, n()>{table, placed.arrays().ids, x});
        },
        table, x);
  }
  template <class T>
  static void embed_backward(Context& ctx, const Placed& placed, MatrixView<const T> g,
                             MatrixView<compute_t<T>> d_table) {
    device::add_to_table<System, T>(ctx, placed.arrays().by_id, g, d_table);
  }

  template <class T>
  static void add_rms_norm_forward(Context& ctx, const RmsNorm<compute_t<T>>& norm, const compute_t<T>* bias,
                                   MatrixView<const T> residual, MatrixView<T> x, compute_t<T>* rstd,
                                   MatrixView<T> y) {
    device::with_packs(
        x.cols,
        [&](auto n, index_t) {
          System::launch(ctx, x.rows,
                         device::AddRmsNormRows<T, n()>{norm, bias, residual, x, x.cols, rstd, y});
        },
        norm.gamma, bias, residual, x, y);
  }
  template <class T>
  static void rms_norm_again(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                             const compute_t<T>* rstd, MatrixView<T> y) {
    device::with_packs(
        x.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, x.rows, packs,
                                              device::RmsNormAgain<T, n()>{norm.gamma, x, rstd, y});
        },
        norm.gamma, x, y);
  }
  template <class T>
  static void rms_norm_backward(Context& ctx, const RmsNorm<compute_t<T>>& norm, MatrixView<const T> x,
                                const compute_t<T>* rstd, MatrixView<const T> dy, compute_t<T> factor,
                                bool overwrite, MatrixView<T> g) {
    device::rms_norm_backward<System, T>(ctx, norm, x, rstd, dy, factor, overwrite, g);
  }

  template <class T>
  static void swiglu_forward(Context& ctx, MatrixView<const T> gate, MatrixView<const T> up,
                             MatrixView<T> out) {
    device::with_packs(
        out.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, out.rows, packs,
                                              device::SwigluEntries<T, n()>{gate, up, out});
        },
        gate, up, out);
  }
  template <class T>
  static void swiglu_backward(Context& ctx, MatrixView<const T> d_out, MatrixView<T> gate, MatrixView<T> up) {
    device::with_packs(
        d_out.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, d_out.rows, packs,
                                              device::SwigluBackwardEntries<T, n()>{d_out, gate, up});
        },
        d_out, gate, up);
  }

  template <class T>
  static void rope_forward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                           const Placed& placed, const compute_t<T>* bias, MatrixView<T> qkv) {
    rotate<T>(ctx, shape, table, placed, bias, false, qkv);
  }
  template <class T>
  static void rope_backward(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                            const Placed& placed, MatrixView<T> d_qkv) {
    rotate<T>(ctx, shape, table, placed, nullptr, true, d_qkv);
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* sums) {
    device::add_sums_by_column<System, T>(ctx, g, sums);
  }

  /// Of backward: a number for each row and head.
  template <class T>
  static index_t attention_work(Context&, const CausalShape& shape, index_t tokens, index_t) {
    device::require_attention_room(shape);
    return shape.heads * tokens;
  }
  template <class T>
  static void attention_forward(Context& ctx, const CausalShape& shape, const Placed& placed,
                                MatrixView<const T> qkv, MatrixView<T> out, compute_t<T>* log_sums,
                                compute_t<T>*) {
    attention<T>(shape).forward(ctx, placed.arrays(), qkv, out, log_sums);
  }
  template <class T>
  static void attention_after(Context& ctx, const CausalShape& shape, const Placed& placed,
                              std::span<const index_t> past, std::span<const MatrixView<T>> keys,
                              std::span<const MatrixView<T>> values, index_t, MatrixView<const T> qkv,
                              MatrixView<T> out, compute_t<T>*) {
    for (std::size_t s = 0; s < past.size(); ++s) {
      const auto [first, rows] = placed.rows_of(static_cast<index_t>(s));
      const device::AttentionSequence<T> one{
          first,        static_cast<int>(rows), static_cast<int>(past[s] + rows),
          keys[s].data, values[s].data,         keys[s].stride};
      attention<T>(shape).forward(ctx, one, keys[s], values[s], qkv, out);
    }
  }
  template <class T>
  static void attention_backward(Context& ctx, const CausalShape& shape, const Placed& placed,
                                 MatrixView<const T> qkv, MatrixView<const T> out,
                                 const compute_t<T>* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv,
                                 compute_t<T>* delta) {
    attention<T>(shape).backward(ctx, placed.arrays(), qkv, out, log_sums, d_out, d_qkv, delta);
  }

  template <class T>
  static void take_rows(Context& ctx, const Placed& placed, MatrixView<const T> x,
                        MatrixView<const T> residual, MatrixView<T> y) {
    device::with_packs(
        y.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, y.rows, packs,
                                              device::TakeRow<T, n()>{placed.arrays().rows, x, residual, y});
        },
        x, residual, y);
  }
  template <class T>
  static void put_rows(Context& ctx, const Placed& placed, MatrixView<const T> y, MatrixView<T> x) {
    Backend::template zero<T>(ctx, x.data, x.size());
    device::launch_over_entries<System>(ctx, y.rows, y.cols, device::PutRow<T>{y, placed.arrays().rows, x});
  }
  template <class T>
  static void cross_entropy(Context& ctx, const Placed& placed, index_t first,
                            MatrixView<compute_t<T>> logits, double* losses, MatrixView<T> d_logits) {
    device::with_packs(
        logits.cols,
        [&](auto n, index_t) {
          System::launch(ctx, logits.rows,
                         device::CrossEntropyRows<T, n()>{logits.cols, logits,
                                                          placed.arrays().targets + first, losses, d_logits});
        },
        logits, d_logits);
  }

 private:
  template <class T>
  static void rotate(Context& ctx, const CausalShape& shape, const RopeTable<compute_t<T>>& table,
                     const Placed& placed, const compute_t<T>* bias, bool back, MatrixView<T> qkv) {
    device::with_packs(
        shape.head_size / 2,
        [&](auto n, index_t) {
          using Entries = device::RotateEntries<T, n()>;
          device::launch_over_entries<System>(
              ctx, qkv.rows, Entries::items(shape, bias != nullptr),
              Entries{static_cast<std::uint32_t>(shape.heads + shape.kv_heads),
                      static_cast<std::uint32_t>(shape.head_size), back, table.cosines, table.sines,
                      placed.arrays().positions, bias, qkv});
        },
        table.cosines, table.sines, bias, qkv);
  }
  template <class T>
  static auto attention(const CausalShape& shape) {
    using C = compute_t<T>;
    return device::Attention<System, T, device::CausalPattern<C>>(shape, shape.template scale<C>(), {});
  }
};

template <class Backend>
requires ThrustBackend<Backend>
struct DecoderOps<Backend> : DeviceDecoderOps<Backend, PlacedBatch<Backend>> {
};

}  // namespace sparsegrad::finetune
