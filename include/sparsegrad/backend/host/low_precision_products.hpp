// Dense products of matrices in bfloat16 or float16 by a kernel for floats.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>

#include "../../core/low_precision.hpp"
#include "convert.hpp"
#include "dense.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The primitives gemm and gemm_wide of LowPrecisionBackend (core/backend.hpp) for a backend whose
/// library does not multiply 16-bit numbers. Blocks of A and B are converted to float and multiplied
/// by `Serial` (see Dense), sums stay in float over the whole depth, and a C of 16 bits is rounded
/// once. Blocks are so small that they wait for their product in the cache, and so large that
/// converting them costs a few per cent of it.
///
/// Tiles are those of Dense, so that bits depend on the same things.
template <class Serial>
struct LowPrecisionProducts : private Dense<Serial> {
  /// C = alpha op(A) op(B) + beta C; A and B in S, C in S or float.
  template <class S, class Out>
  static void gemm(HostContext& ctx, Op op_a, Op op_b, float alpha, ConstMatrixView<S> a,
                   ConstMatrixView<S> b, float beta, MatrixView<Out> c) {
    static_assert(is_low_precision<S>);
    if (c.empty()) return;
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    const auto tiles = Base::partition(ctx, c.rows, c.cols, depth);
    const Room room(tiles.rows, tiles.cols, depth, !std::is_same_v<Out, float>);
    Scratch::Frame frame(ctx.scratch());
    float* memory = frame.take<float>(room.count() * ctx.threads());
    ctx.parallel_for(tiles.count(), [&](index_t tile, int worker) {
      const index_t row = tile / tiles.across * tiles.rows;
      const index_t col = tile % tiles.across * tiles.cols;
      const index_t rows = (std::min)(tiles.rows, c.rows - row);
      const index_t cols = (std::min)(tiles.cols, c.cols - col);
      product_of_tile<S, Out>(op_a, op_b, alpha, Base::template rows_of<S>(op_a, a, row, rows),
                              Base::template cols_of<S>(op_b, b, col, cols), beta,
                              c.block(row, col, rows, cols), room, memory + room.count() * worker);
    });
  }

 private:
  using Base = Dense<Serial>;

  // 5 MiB a worker, with the sums; the measured products lost least to conversion by these.
  static constexpr index_t most_rows = 512;
  static constexpr index_t most_cols = 768;
  static constexpr index_t most_depth = 768;

  /// A worker's memory: a block of A, of B, of sums where C has 16 bits, and what Serial packs.
  struct Room {
    index_t rows, cols, depth;
    index_t a, b, sums, pack;

    Room(index_t m, index_t n, index_t k, bool rounds)
        : rows(part(m, most_rows)), cols(part(n, most_cols)), depth(part(k, most_depth)) {
      a = Base::round_up(rows * depth, 16);
      b = Base::round_up(depth * cols, 16);
      sums = rounds ? Base::round_up(rows * cols, 16) : 0;
      pack = Base::round_up(Serial::template pack_count<float>(rows, cols, depth), 16);
    }
    index_t count() const { return a + b + sums + pack; }

    /// The extent of equal parts of n of at most `most`.
    static index_t part(index_t n, index_t most) {
      const index_t parts = std::max<index_t>(1, (n + most - 1) / most);
      return (std::min)(n, Base::round_up((n + parts - 1) / parts, 16));
    }
  };

  template <class S, class Out>
  static void product_of_tile(Op op_a, Op op_b, float alpha, MatrixView<const S> a, MatrixView<const S> b,
                              float beta, MatrixView<Out> c, const Room& room, float* memory) {
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    float* a_memory = memory;
    float* b_memory = a_memory + room.a;
    float* sum_memory = b_memory + room.b;
    const std::span<float> pack(sum_memory + room.sums, static_cast<std::size_t>(room.pack));
    for (index_t i = 0; i < c.rows; i += room.rows) {
      const index_t rows = (std::min)(room.rows, c.rows - i);
      for (index_t j = 0; j < c.cols; j += room.cols) {
        const index_t cols = (std::min)(room.cols, c.cols - j);
        const MatrixView<Out> target = c.block(i, j, rows, cols);
        MatrixView<float> sums;
        if constexpr (std::is_same_v<Out, float>) {
          sums = target;
        } else {
          sums = MatrixView<float>(sum_memory, rows, cols);
        }
        float keep = std::is_same_v<Out, float> ? beta : 0.0F;
        index_t l = 0;
        do {
          const index_t terms = (std::min)(room.depth, depth - l);
          // A block of A that has the whole depth serves all columns.
          const MatrixView<const float> left =
              converted(part_of(op_a, Base::template rows_of<S>(op_a, a, i, rows), l, terms), a_memory,
                        j == 0 || room.depth < depth);
          const MatrixView<const float> right = converted(
              part_of(other(op_b), Base::template cols_of<S>(op_b, b, j, cols), l, terms), b_memory, true);
          Serial::template gemm<float>(op_a, op_b, alpha, left, right, keep, sums, pack);
          keep = 1;
          l += terms;
        } while (l < depth);
        if constexpr (!std::is_same_v<Out, float>) write(sums, beta, target);
      }
    }
  }

  static Op other(Op op) { return op == Op::none ? Op::transpose : Op::none; }
  /// Columns [first, first + count) of op(M).
  template <class S>
  static MatrixView<const S> part_of(Op op, MatrixView<const S> m, index_t first, index_t count) {
    return op == Op::none ? m.block(0, first, m.rows, count) : m.block(first, 0, count, m.cols);
  }

  /// M as floats in `memory`; `now`: it does not stand there yet.
  template <class S>
  static MatrixView<const float> converted(MatrixView<const S> m, float* memory, bool now) {
    for (index_t i = 0; now && i < m.rows; ++i)
      Convert::widen_array(m.row(i), memory + i * m.cols, m.cols);
    return MatrixView<const float>(memory, m.rows, m.cols);
  }

  /// C = sums + beta C; beta = 0 overwrites NaN.
  template <class S>
  static void write(MatrixView<float> sums, float beta, MatrixView<S> c) {
    for (index_t i = 0; i < c.rows; ++i) {
      if (beta != 0) add_widened(beta, c.row(i), sums.row(i), c.cols);
      Convert::round_array(sums.row(i), c.row(i), c.cols);
    }
  }
  /// y[j] += beta x[j].
  template <class S>
  [[gnu::noinline]] static void add_widened(float beta, const S* x, float* y, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t j = 0;
    for (; j + Lanes::count <= n; j += Lanes::count) {
      Lanes term, sum;
      term.load(x + j);
      std::memcpy(&sum.v, y + j, sizeof sum.v);
      sum.v += beta * term.v;
      std::memcpy(y + j, &sum.v, sizeof sum.v);
    }
    for (; j < n; ++j)
      y[j] += beta * static_cast<float>(x[j]);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
