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

namespace sparsegrad::glue {

template <class Backend, class Placed>
struct DeviceLayerOps {
  using Context = typename Backend::Context;
  using System = typename Backend::System;
  static constexpr index_t adamw_chunk = std::numeric_limits<index_t>::max();

  /// Partial column sums in double, and the embeddings' pieces.
  template <class T>
  static index_t scratch_bytes(index_t tokens, index_t width) {
    const index_t chunks = tokens / backend::portable::ColumnSumChunks<device::Array2<T>>::chunk + 1;
    const index_t sums = chunks * width * static_cast<index_t>(sizeof(double));
    return sums + tokens * width * static_cast<index_t>(sizeof(T)) + (index_t{1} << 20);
  }

  template <class T>
  static void embeddings_forward(Context& ctx, const Embeddings<T>& e, const Placed& placed,
                                 const Dropout<T>& dropout, MatrixView<T> xhat, T* rstd, MatrixView<T> y) {
    const BatchArrays& batch = placed.arrays();
    using Source = device::EmbeddingSource<T>;
    const Source source{e.word, e.position, e.type, batch.ids, batch.positions, batch.types};
    System::launch(ctx, y.rows,
                   device::NormalizeRows<T, Source>{source, e.norm, dropout, y.cols, xhat, rstd, y});
  }
  template <class T>
  static void embeddings_backward(Context& ctx, const Embeddings<T>& e, const Placed& placed,
                                  const Dropout<T>& dropout, MatrixView<const T> xhat, const T* rstd,
                                  MatrixView<T> g) {
    apply_mask<T>(ctx, dropout, g);
    device::norm_backward<System, T>(ctx, e.norm, xhat, rstd, g);
    const BatchArrays& batch = placed.arrays();
    device::add_to_table<System, T>(ctx, batch.by_id, g, e.d_word);
    device::add_to_table<System, T>(ctx, batch.by_position, g, e.d_position);
    device::add_to_table<System, T>(ctx, batch.by_type, g, e.d_type);
  }

  template <class T>
  static void residual_norm_forward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout,
                                    const T* bias, MatrixView<T> x, MatrixView<const T> residual, T* rstd,
                                    MatrixView<T> y) {
    using Source = device::ResidualSource<T>;
    const Source source{dropout, bias, MatrixView<const T>(x), residual};
    System::launch(ctx, x.rows,
                   device::NormalizeRows<T, Source>{source, norm, Dropout<T>(), x.cols, x, rstd, y});
  }
  template <class T>
  static void residual_norm_backward(Context& ctx, const LayerNorm<T>& norm, const Dropout<T>& dropout,
                                     MatrixView<const T> xhat, const T* rstd, MatrixView<T> g,
                                     MatrixView<const T> extra, MatrixView<T> dx, T* d_bias) {
    if (!extra.empty()) Backend::template add<T>(ctx, T(1), extra, g);
    device::norm_backward<System, T>(ctx, norm, xhat, rstd, g);
    if (dropout.on()) {
      device::for_each_entry<System>(ctx, g.rows, g.cols,
                                     device::MaskEntry<T>{dropout, MatrixView<const T>(g), dx});
    }
    column_sums<T>(ctx, dropout.on() ? MatrixView<const T>(dx) : MatrixView<const T>(g), d_bias);
  }

  template <class T>
  static void gelu_forward(Context& ctx, const T* bias, MatrixView<T> h, MatrixView<T> out) {
    device::for_each_entry<System>(ctx, h.rows, h.cols, device::GeluEntry<T>{bias, h, out});
  }
  template <class T>
  static void gelu_backward(Context& ctx, MatrixView<const T> slope, MatrixView<T> g, T* d_bias) {
    device::for_each_entry<System>(ctx, g.rows, g.cols, device::MultiplyEntry<T>{slope, g});
    column_sums<T>(ctx, g, d_bias);
  }
  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> g, T* sums) {
    if (sums != nullptr) Backend::template column_sums<T>(ctx, g, sums);
  }

  template <class T>
  static index_t attention_work(Context&, const AttentionShape& shape, index_t tokens, index_t longest) {
    device::require_attention_room(shape, longest);
    return shape.heads * tokens;
  }
  template <class T>
  static void attention_forward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                const T* bias, const Dropout<T>& dropout, MatrixView<T> qkv,
                                MatrixView<T> out, T* log_sums, T*) {
    device::for_each_entry<System>(
        ctx, qkv.rows, qkv.cols, device::AddQkvBias<T>{bias, shape.template scale<T>(), shape.hidden(), qkv});
    using Kernel = device::AttentionForward<T>;
    launch(ctx,
           Kernel{{shape, placed.arrays(), Kernel::tile}, dropout, MatrixView<const T>(qkv), out, log_sums});
  }
  template <class T>
  static void attention_backward(Context& ctx, const AttentionShape& shape, const Placed& placed,
                                 const Dropout<T>& dropout, MatrixView<const T> qkv, MatrixView<const T> out,
                                 const T* log_sums, MatrixView<const T> d_out, MatrixView<T> d_qkv,
                                 T* delta) {
    device::for_each_entry<System>(ctx, shape.heads, qkv.rows,
                                   device::AttentionDelta<T>{shape.head_size, qkv.rows, out, d_out, delta});
    using Queries = device::AttentionBackwardQueries<T>;
    launch(ctx, Queries{{shape, placed.arrays(), Queries::tile},
                        dropout,
                        shape.template scale<T>(),
                        qkv,
                        log_sums,
                        delta,
                        d_out,
                        d_qkv});
    using Keys = device::AttentionBackwardKeys<T>;
    launch(ctx, Keys{{shape, placed.arrays(), Keys::tile}, dropout, qkv, log_sums, delta, d_out, d_qkv});
  }

  template <class T>
  static void take_first(Context& ctx, const Placed& placed, MatrixView<const T> x, MatrixView<T> first) {
    Backend::template gather_rows<T>(ctx, x, placed.arrays().offsets, first.rows, first);
  }
  template <class T>
  static void put_first(Context& ctx, const Placed& placed, MatrixView<const T> first, MatrixView<T> x) {
    Backend::template zero<T>(ctx, x.data, x.size());
    Backend::template add_rows<T>(ctx, first, placed.arrays().offsets, x);
  }
  template <class T>
  static void tanh_forward(Context& ctx, const T* bias, MatrixView<T> x) {
    device::for_each_entry<System>(ctx, x.rows, x.cols, device::TanhEntry<T>{bias, x});
  }
  template <class T>
  static void tanh_backward(Context& ctx, MatrixView<const T> y, MatrixView<T> g) {
    device::for_each_entry<System>(ctx, g.rows, g.cols, device::TanhBackwardEntry<T>{y, g});
  }
  template <class T>
  static void apply_mask(Context& ctx, const Dropout<T>& dropout, MatrixView<T> x) {
    if (!dropout.on()) return;
    device::for_each_entry<System>(ctx, x.rows, x.cols,
                                   device::MaskEntry<T>{dropout, MatrixView<const T>(x), x});
  }

  template <class T>
  static void adamw(Context& ctx, std::span<const AdamWPiece<T>> pieces, bool clear) {
    device::launch_batch<System>(ctx, pieces, [&](const AdamWPiece<T>& piece, std::size_t) {
      return device::ElementBlocks<device::AdamWElement<T>>{{piece, clear}, piece.count};
    });
  }
  template <class T>
  static void sums_of_squares(Context& ctx, std::span<const AdamWPiece<T>> pieces, double* sums) {
    using Kernel = device::SquareChunks<T>;
    const auto kernel_of = [](const AdamWPiece<T>& p) { return Kernel{p.gradient, p.count, nullptr}; };
    index_t blocks = 0;
    for (const AdamWPiece<T>& piece : pieces)
      blocks += kernel_of(piece).blocks();
    auto frame = ctx.frame();
    double* partial = frame.template take<double>(blocks);
    index_t at = 0;
    device::launch_batch<System>(ctx, pieces, [&](const AdamWPiece<T>& piece, std::size_t) {
      Kernel kernel = kernel_of(piece);
      kernel.partial = partial + at;
      at += kernel.blocks();
      return kernel;
    });
    std::vector<double> host(static_cast<std::size_t>(blocks));
    if (blocks > 0) Backend::template download<double>(ctx, partial, host.data(), blocks);
    at = 0;
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      sums[p] = 0;
      for (index_t end = at + kernel_of(pieces[p]).blocks(); at < end; ++at)
        sums[p] += host[static_cast<std::size_t>(at)];
    }
  }

 private:
  template <class K>
  static void launch(Context& ctx, const K& kernel) {
    System::launch(ctx, kernel.blocks(), kernel);
  }
};

template <class Backend>
requires ThrustBackend<Backend>
struct LayerOps<Backend> : DeviceLayerOps<Backend, PlacedBatch<Backend>> {
};

}  // namespace sparsegrad::glue
