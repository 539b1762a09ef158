// LayerOps on a GPU, or on Thrust's host system.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "../layer_ops.hpp"
#include "activations.cuh"
#include "adamw.cuh"
#include "attention.cuh"
#include "embeddings.cuh"
#include "layer_norm.cuh"

namespace sparsegrad::finetune {

template <class Backend, class Placed>
struct DeviceLayerOps {
  using Context = typename Backend::Context;
  using System = typename Backend::System;
  static constexpr index_t adamw_chunk = std::numeric_limits<index_t>::max();

  /// More than partial column sums take; the embeddings' pieces have at most a row for each token.
  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    return tokens * width * static_cast<index_t>(sizeof(compute_t<T>)) + (index_t{1} << 20);
  }

  template <class T>
  static void embeddings_forward(Context& ctx, const Embeddings<compute_t<T>>& e, const Placed& placed,
                                 const Dropout<compute_t<T>>& dropout, MatrixView<T> xhat, compute_t<T>* rstd,
                                 MatrixView<T> y) {
    const BatchArrays& batch = placed.arrays();
    using Source = device::EmbeddingSource<compute_t<T>>;
    const Source source{e.word, e.position, e.type, batch.ids, batch.positions, batch.types};
    device::with_packs(
        y.cols,
        [&](auto n, index_t) {
          using Kernel = device::NormalizeRows<T, n(), Source>;
          System::launch(ctx, y.rows, Kernel{source, e.norm, dropout, y.cols, xhat, rstd, y});
        },
        e.word, e.position, e.type, e.norm.gamma, e.norm.beta, xhat, y);
  }
  template <class T>
  static void embeddings_backward(Context& ctx, const Embeddings<compute_t<T>>& e, const Placed& placed,
                                  const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                  const compute_t<T>* rstd, MatrixView<T> g) {
    apply_mask<T>(ctx, dropout, g);
    device::norm_backward<System, T>(ctx, e.norm, xhat, rstd, g, {}, {}, {}, nullptr);
    const BatchArrays& batch = placed.arrays();
    device::add_to_table<System, T>(ctx, batch.by_id, g, e.d_word);
    device::add_to_table<System, T>(ctx, batch.by_position, g, e.d_position);
    device::add_to_table<System, T>(ctx, batch.by_type, g, e.d_type);
  }

  template <class T>
  static void residual_norm_forward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                    const Dropout<compute_t<T>>& dropout, const compute_t<T>* bias,
                                    MatrixView<T> x, MatrixView<const T> residual, compute_t<T>* rstd,
                                    MatrixView<T> y) {
    using Source = device::ResidualSource<T>;
    const Source source{dropout, bias, MatrixView<const T>(x), residual};
    device::with_packs(
        x.cols,
        [&](auto n, index_t) {
          using Kernel = device::NormalizeRows<T, n(), Source>;
          System::launch(ctx, x.rows, Kernel{source, norm, {}, x.cols, x, rstd, y});
        },
        norm.gamma, norm.beta, bias, x, residual, y);
  }
  template <class T>
  static void residual_norm_backward(Context& ctx, const LayerNorm<compute_t<T>>& norm,
                                     const Dropout<compute_t<T>>& dropout, MatrixView<const T> xhat,
                                     const compute_t<T>* rstd, MatrixView<T> g, MatrixView<const T> extra,
                                     MatrixView<T> dx, compute_t<T>* d_bias) {
    device::norm_backward<System, T>(ctx, norm, xhat, rstd, g, extra, dropout,
                                     dropout.on() ? dx : MatrixView<T>(), d_bias);
  }

  template <class T>
  static void gelu_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> h, MatrixView<T> out) {
    device::with_packs(
        h.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, h.rows, packs, device::GeluEntries<T, n()>{bias, h, out});
        },
        bias, h, out);
  }
  template <class T>
  static void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, compute_t<T>* d_bias) {
    device::with_packs(
        g.cols,
        [&](auto n, index_t packs) {
          const device::MultiplyEntries<T, n()> entries{slope, g};
          if (d_bias != nullptr) {
            device::add_sums_by_column<System, n()>(ctx, entries, g.rows, g.cols, d_bias);
          } else {
            device::launch_over_entries<System>(ctx, g.rows, packs, entries);
          }
        },
        slope, g);
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* sums) {
    device::add_sums_by_column<System, T>(ctx, g, sums);
  }

  /// Of backward: a number for each row and head.
  template <class T>
  static index_t attention_work(Context&, const AttentionShape& shape, index_t tokens, index_t) {
    device::require_attention_room(shape);
    return shape.heads * tokens;
  }
  template <class T>
  static void attention_forward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                const compute_t<T>* bias, const Dropout<compute_t<T>>& dropout,
                                MatrixView<T> qkv, MatrixView<T> out, compute_t<T>* log_sums, compute_t<T>*) {
    device::with_packs(
        shape.hidden(),
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, qkv.rows, 2 * packs,
                                              device::QkvBiasEntries<T, n()>{bias, shape.hidden(), qkv});
        },
        bias, qkv);
    attention<T>(shape, dropout).forward(ctx, placed.arrays(), qkv, out, log_sums);
  }
  template <class T>
  static void attention_backward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                 const Dropout<compute_t<T>>& dropout, MatrixView<const T> qkv,
                                 MatrixView<const T> out, const compute_t<T>* log_sums,
                                 MatrixView<const T> d_out, MatrixView<T> d_qkv, compute_t<T>* delta) {
    attention<T>(shape, dropout).backward(ctx, placed.arrays(), qkv, out, log_sums, d_out, d_qkv, delta);
  }

  template <class T>
  static void take_first(Context& ctx, const Placed& placed, MatrixView<const T> x, MatrixView<T> first) {
    Backend::template gather_rows<T>(ctx, x, placed.arrays().offsets, first.rows, first);
  }
  template <class T>
  static void put_first(Context& ctx, const Placed& placed, MatrixView<const T> first, MatrixView<T> x) {
    Backend::template zero<T>(ctx, x.data, x.size());
    device::launch_over_entries<System>(ctx, first.rows, first.cols,
                                        device::PutRow<T>{first, placed.arrays().offsets, x});
  }
  template <class T>
  static void tanh_forward(Context& ctx, const compute_t<T>* bias, MatrixView<T> x) {
    device::launch_over_entries<System>(ctx, x.rows, x.cols, device::TanhEntry<T>{bias, x});
  }
  template <class T>
  static void tanh_backward(Context& ctx, MatrixView<const T> y, MatrixView<T> g) {
    device::launch_over_entries<System>(ctx, g.rows, g.cols, device::TanhBackwardEntry<T>{y, g});
  }
  template <class T>
  static void apply_mask(Context& ctx, const Dropout<compute_t<T>>& dropout, MatrixView<T> x) {
    if (!dropout.on()) return;
    device::with_packs(
        x.cols,
        [&](auto n, index_t packs) {
          device::launch_over_entries<System>(ctx, x.rows, packs, device::MaskEntries<T, n()>{dropout, x});
        },
        x);
  }

  template <class T>
  static void adamw(Context& ctx, std::span<const AdamWPiece<T>> pieces, bool clear) {
    device::launch_tasks<System>(ctx, pieces, [&](const AdamWPiece<T>& piece, std::size_t) {
      return device::ElementBlocks<device::AdamWElement<T>>{{piece, clear}, piece.count};
    });
  }
  template <class T>
  static void sums_of_squares(Context& ctx, std::span<const AdamWPiece<T>> pieces, double* sums) {
    std::vector<MatrixView<const compute_t<T>>> gradients;
    for (const AdamWPiece<T>& piece : pieces)
      gradients.emplace_back(piece.gradient, 1, piece.count);
    Backend::template squared_norm_batched<compute_t<T>>(ctx, gradients, sums);
  }

 private:
  template <class T>
  static auto attention(const AttentionShape& shape, const Dropout<compute_t<T>>& dropout) {
    using C = compute_t<T>;
    using Pattern = device::BidirectionalPattern<C>;
    return device::Attention<System, T, Pattern>(shape, shape.template scale<C>(), Pattern{dropout});
  }
};

template <class Backend>
requires ThrustBackend<Backend>
struct LayerOps<Backend> : DeviceLayerOps<Backend, PlacedBatch<Backend>> {
};

}  // namespace sparsegrad::finetune
