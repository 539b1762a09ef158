// Dense products of the host backends: tiles of one product run side by side, each by a serial
// kernel.
#pragma once

#include <algorithm>
#include <span>

#include "../../core/backend.hpp"
#include "context.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// gemm, gemm_batched and gram on top of `Serial`, which supplies
///   Serial::gemm<T>(op_a, op_b, alpha, A, B, beta, C, pack)   one product on the calling thread, no
///   allocation Serial::pack_count<T>(m, n, k)                            elements of `pack` that it needs
/// A tile's bits depend on its extents and place alone. Under ctx.deterministic() the tiles depend
/// on the extents alone, otherwise on the number of threads too.
template <class Serial>
struct Dense {
  template <class T>
  static void gemm(HostContext& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, std::type_identity_t<T> beta, MatrixView<T> c) {
    if (c.empty()) return;
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    const Tiles tiles = partition(ctx, c.rows, c.cols, depth);
    Scratch::Frame frame(ctx.scratch());
    const index_t pack_count = Serial::template pack_count<T>(tiles.rows, tiles.cols, depth);
    T* pack = frame.take<T>(pack_count * ctx.threads());  // any worker may take any tile
    ctx.parallel_for(tiles.count(), [&](index_t tile, int worker) {
      const index_t row = tile / tiles.across * tiles.rows;
      const index_t col = tile % tiles.across * tiles.cols;
      const index_t rows = (std::min)(tiles.rows, c.rows - row);
      const index_t cols = (std::min)(tiles.cols, c.cols - col);
      Serial::template gemm<T>(op_a, op_b, alpha, rows_of<T>(op_a, a, row, rows),
                               cols_of<T>(op_b, b, col, cols), beta, c.block(row, col, rows, cols),
                               packing(pack, pack_count, worker));
    });
  }

  template <class T>
  static void gemm_batched(HostContext& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    index_t pack_count = 0;
    for (std::size_t e = 0; e < cs.size(); ++e) {
      const index_t depth = op_a == Op::none ? as[e].cols : as[e].rows;
      pack_count = (std::max)(pack_count, Serial::template pack_count<T>(cs[e].rows, cs[e].cols, depth));
    }
    Scratch::Frame frame(ctx.scratch());
    T* pack = frame.take<T>(pack_count * ctx.threads());
    ctx.parallel_for(static_cast<index_t>(cs.size()), [&](index_t i, int worker) {
      const auto e = static_cast<std::size_t>(i);
      if (cs[e].empty()) return;
      Serial::template gemm<T>(op_a, op_b, alpha, as[e], bs[e], beta, cs[e],
                               packing(pack, pack_count, worker));
    });
  }

  template <class T>
  static void gram(HostContext& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    if (g.empty()) return;
    const index_t depth = op == Op::none ? a.cols : a.rows;
    const Op other = op == Op::none ? Op::transpose : Op::none;
    // Rows go in pairs of `edge`: left of the diagonal a tile has both, because a tall tile spares
    // repacking; the block on the diagonal is two triangles and the square between them. The pair r
    // has 2 r + 3 tiles, all pairs before it r (r + 2).
    const index_t edge = gram_edge;
    const index_t across = (g.rows + edge - 1) / edge;
    const index_t pairs = across / 2;
    const index_t tiles = pairs * (pairs + 2) + (across % 2 == 0 ? 0 : across);
    Scratch::Frame frame(ctx.scratch());
    const index_t height = (std::min)(2 * edge, g.rows);
    const index_t width = (std::min)(edge, g.rows);
    const index_t pack_count = Serial::template pack_count<T>(height, width, depth);
    const index_t tile_count = round_up(height * width, 16);  // keeps the packing memory aligned
    const index_t own = tile_count + round_up(pack_count, 16);
    T* memory = frame.take<T>(own * ctx.threads());
    ctx.parallel_for(tiles, [&](index_t tile, int worker) {
      index_t pair = 0;
      while ((pair + 1) * (pair + 3) <= tile)
        ++pair;
      const index_t place = tile - pair * (pair + 2);
      const index_t below = place > 2 * pair ? 1 : 0;
      const index_t i = 2 * pair + below;
      const index_t j = place - below;
      const index_t rows = (std::min)(j < 2 * pair ? 2 * edge : edge, g.rows - i * edge);
      const index_t cols = (std::min)(edge, g.rows - j * edge);
      T* product = memory + own * worker;
      const MatrixView<T> target(product, rows, cols);
      if (i == j) {
        Serial::template lower_gram<T>(op, rows_of<T>(op, a, i * edge, rows), target,
                                       {product + tile_count, static_cast<std::size_t>(pack_count)});
      } else {
        Serial::template gemm<T>(op, other, T(1), rows_of<T>(op, a, i * edge, rows),
                                 cols_of<T>(other, a, j * edge, cols), T(0), target,
                                 {product + tile_count, static_cast<std::size_t>(pack_count)});
      }
      for (index_t r = 0; r < rows; ++r) {
        double* sums = g.row(i * edge + r) + j * edge;
        const T* terms = product + r * cols;
        const index_t end = i == j ? r + 1 : cols;
        for (index_t s = 0; s < end; ++s)
          sums[s] += weight * static_cast<double>(terms[s]);
      }
    });
  }

 protected:
  struct Tiles {
    index_t rows, cols, down, across;
    index_t count() const { return down * across; }
  };

  static Tiles partition(const HostContext& ctx, index_t m, index_t n, index_t k) {
    const double work =
        static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(std::max<index_t>(k, 1));
    if (work < serial_limit) return {m, n, 1, 1};
    if (ctx.deterministic()) {
      // Tall and wide enough that repacking the other operand costs a few per cent.
      const index_t rows = m >= n ? 256 : 512;
      const index_t cols = m >= n ? 1024 : 512;
      return tiles(m, n, rows, cols);
    }
    const index_t pieces = ctx.threads();
    if (pieces == 1) return {m, n, 1, 1};
    // Cut the longer side, in multiples that the micro-kernels like.
    if (m >= n) return tiles(m, n, round_up((m + pieces - 1) / pieces, 32), n);
    return tiles(m, n, m, round_up((n + pieces - 1) / pieces, 32));
  }
  static index_t round_up(index_t n, index_t step) { return (n + step - 1) / step * step; }

  template <class T>
  static MatrixView<const T> rows_of(Op op, MatrixView<const T> a, index_t first, index_t count) {
    return op == Op::none ? a.block(first, 0, count, a.cols) : a.block(0, first, a.rows, count);
  }
  template <class T>
  static MatrixView<const T> cols_of(Op op, MatrixView<const T> b, index_t first, index_t count) {
    return op == Op::none ? b.block(0, first, b.rows, count) : b.block(first, 0, count, b.cols);
  }

 private:
  template <class T>
  static std::span<T> packing(T* memory, index_t count, int worker) {
    return {memory + count * worker, static_cast<std::size_t>(count)};
  }

  static constexpr index_t gram_edge = 384;
  static constexpr double serial_limit =
      1 << 17;  ///< multiply-adds below which a second thread costs more than it gives

  static Tiles tiles(index_t m, index_t n, index_t rows, index_t cols) {
    rows = (std::min)(rows, m);
    cols = (std::min)(cols, n);
    return {rows, cols, (m + rows - 1) / rows, (n + cols - 1) / cols};
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
