// Dense products by oneDNN: tiles of one product run side by side, each by a serial matmul.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>

#include "../../core/backend_types.hpp"
#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"
#include "../cpu_blas/serial.hpp"
#include "../host/convert.hpp"
#include "context.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn {

/// oneDNN's name of T.
template <class T>
inline constexpr dnnl::memory::data_type data_type =
    std::is_same_v<T, sparsegrad::bfloat16>  ? dnnl::memory::data_type::bf16
    : std::is_same_v<T, sparsegrad::float16> ? dnnl::memory::data_type::f16
                                             : dnnl::memory::data_type::f32;

/// Products of matrices in `In` whose results are in `Out`, sums in float.
///
/// oneDNN writes C = A B and C += A B; with other factors than 1 the product of a tile goes to
/// scratch memory, and from there, multiplied, to C: oneDNN 2.6 has plain loops alone for such
/// products on processors without AVX-512.
///
/// A depth that is no multiple of 64 is two matmuls, of its multiple and of the rest: so the numbers
/// of tokens and of selected rows, which differ from step to step, need few matmuls (2 % slower).
///
/// A tile's bits depend on its extents and strides alone. Under ctx.deterministic(), and in `gram`,
/// the tiles depend on the extents alone, otherwise on the number of threads too. All matmuls of a
/// call are there before its first tile runs.
template <class In, class Out = In>
struct Products {
  /// C = alpha op(A) op(B) + beta C.
  static void gemm(Context& ctx, Op op_a, Op op_b, float alpha, MatrixView<const In> a,
                   MatrixView<const In> b, float beta, MatrixView<Out> c) {
    if (c.empty()) return;
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    if (needs_no_matmul(alpha, c.rows, c.cols, depth)) return plain(op_a, op_b, alpha, a, b, beta, c);
    const Tiles tiles = partition(ctx, op_a, op_b, c.rows, c.cols, depth);
    const Target target(alpha, beta, depth, c.stride);
    Matmuls matmuls(ctx);
    OverDepth of_place[2][2];
    for (const bool lowest : {false, true}) {
      for (const bool rightmost : {false, true}) {
        if ((!lowest && tiles.down == 1) || (!rightmost && tiles.across == 1)) continue;
        const index_t rows = lowest ? tiles.last_rows() : tiles.rows;
        const index_t cols = rightmost ? tiles.last_cols() : tiles.cols;
        of_place[lowest][rightmost] = matmuls.find(op_a, op_b, a, b, rows, cols, depth, target);
      }
    }
    host::Scratch::Frame frame(ctx.scratch());
    const Memory memory(frame, ctx, matmuls.scratch_bytes(), target.direct ? 0 : tiles.rows * tiles.cols);
    ctx.parallel_for(tiles.down * tiles.across, [&](index_t tile, int worker) {
      const index_t i = tile / tiles.across;
      const index_t j = tile % tiles.across;
      const bool lowest = i + 1 == tiles.down;
      const bool rightmost = j + 1 == tiles.across;
      const MatrixView<Out> part =
          c.block(i * tiles.rows, j * tiles.cols, lowest ? tiles.last_rows() : tiles.rows,
                  rightmost ? tiles.last_cols() : tiles.cols);
      run(ctx, worker, of_place[lowest][rightmost], target, alpha, row_of(op_a, a, i * tiles.rows),
          col_of(op_b, b, j * tiles.cols), beta, part, memory);
    });
  }

  /// The same for independent products, each of which is one tile.
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, float alpha,
                           std::span<const MatrixView<const In>> as, std::span<const MatrixView<const In>> bs,
                           float beta, std::span<const MatrixView<Out>> cs) {
    host::Scratch::Frame frame(ctx.scratch());
    OverDepth* of_product = frame.take<OverDepth>(static_cast<index_t>(cs.size()));
    Matmuls matmuls(ctx);
    index_t largest = 0;
    for (std::size_t e = 0; e < cs.size(); ++e) {
      const MatrixView<Out> c = cs[e];
      const index_t depth = op_a == Op::none ? as[e].cols : as[e].rows;
      of_product[e] = OverDepth();
      if (c.empty() || needs_no_matmul(alpha, c.rows, c.cols, depth)) continue;
      const Target target(alpha, beta, depth, c.stride);
      of_product[e] = matmuls.find(op_a, op_b, as[e], bs[e], c.rows, c.cols, depth, target);
      if (!target.direct) largest = (std::max)(largest, c.size());
    }
    const Memory memory(frame, ctx, matmuls.scratch_bytes(), largest);
    ctx.parallel_for(static_cast<index_t>(cs.size()), [&](index_t i, int worker) {
      const auto e = static_cast<std::size_t>(i);
      if (cs[e].empty()) return;
      if (of_product[e].first == nullptr) return plain(op_a, op_b, alpha, as[e], bs[e], beta, cs[e]);
      const index_t depth = op_a == Op::none ? as[e].cols : as[e].rows;
      run(ctx, worker, of_product[e], Target(alpha, beta, depth, cs[e].stride), alpha, as[e].data, bs[e].data,
          beta, cs[e], memory);
    });
  }

  /// Lower triangle of G += weight op(A) op(A)^T: tiles on and below the diagonal in `Out`.
  static void gram(Context& ctx, Op op, MatrixView<const In> a, double weight, MatrixView<double> g) {
    static_assert(std::is_same_v<Out, float>, "the terms of a Gram sum are float");
    const index_t depth = op == Op::none ? a.cols : a.rows;
    if (g.empty() || depth == 0) return;
    const Op other = op == Op::none ? Op::transpose : Op::none;
    const index_t edge = (std::min)(gram_edge, g.rows);
    const index_t across = (g.rows + edge - 1) / edge;
    const index_t last = g.rows - (across - 1) * edge;
    Matmuls matmuls(ctx);
    // Of a tile's height alone: those of the last row are `last` high, the one on the diagonal as
    // wide.
    const auto matmul = [&](index_t rows, index_t cols) {
      if (needs_no_matmul(1.0F, rows, cols, depth)) return OverDepth();
      return matmuls.find(op, other, a, a, rows, cols, depth, Target(1.0F, 0.0F, depth, cols));
    };
    const OverDepth whole = across > 1 ? matmul(edge, edge) : OverDepth();
    const OverDepth lowest = across > 1 ? matmul(last, edge) : OverDepth();
    const OverDepth corner = matmul(last, last);
    host::Scratch::Frame frame(ctx.scratch());
    const Memory memory(frame, ctx, matmuls.scratch_bytes(), edge * edge);
    ctx.parallel_for(across * (across + 1) / 2, [&](index_t tile, int worker) {
      index_t i = 0;
      while ((i + 1) * (i + 2) / 2 <= tile)
        ++i;
      const index_t j = tile - i * (i + 1) / 2;
      const index_t rows = i + 1 == across ? last : edge;
      const index_t cols = j + 1 == across ? last : edge;
      const OverDepth& by = j + 1 == across ? corner : i + 1 == across ? lowest : whole;
      const MatrixView<Out> product(memory.product(worker), rows, cols);
      if (by.first == nullptr) {
        plain(op, other, 1.0F, rows_of(op, a, i * edge, rows), rows_of(op, a, j * edge, cols), 0.0F, product);
      } else {
        by.run(ctx.matmuls().stream(worker), worker, row_of(op, a, i * edge), col_of(other, a, j * edge),
               product.data, memory.scratch(worker));
      }
      for (index_t r = 0; r < rows; ++r) {
        double* sums = g.row(i * edge + r) + j * edge;
        const index_t end = i == j ? r + 1 : cols;
        for (index_t s = 0; s < end; ++s)
          sums[s] += weight * static_cast<double>(product(r, s));
      }
    });
  }

 private:
  /// Multiply-adds below which a call of oneDNN costs more than it saves: 28^3 on AVX-512, 40^3 on
  /// AVX2.
  static constexpr double fewest = 1 << 15;
  /// Multiply-adds below which a second thread costs more than it gives.
  static constexpr double serial_limit = 1 << 17;
  static constexpr index_t gram_edge = 384;

  static double work(index_t m, index_t n, index_t k) {
    return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
  static bool needs_no_matmul(float alpha, index_t m, index_t n, index_t k) {
    if (k == 0 || alpha == 0.0F) return true;
    return std::is_same_v<In, float> && work(m, n, k) < fewest;
  }
  /// What `needs_no_matmul`, on the calling thread.
  static void plain(Op op_a, Op op_b, float alpha, MatrixView<const In> a, MatrixView<const In> b, float beta,
                    MatrixView<Out> c) {
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    if constexpr (std::is_same_v<In, float>) {
      if (depth > 0 && alpha != 0.0F)
        return detail::BlasSerial::gemm<float>(op_a, op_b, alpha, a, b, beta, c, {});
    }
    for (index_t i = 0; i < c.rows; ++i) {
      Out* row = c.row(i);
      for (index_t j = 0; j < c.cols; ++j)
        row[j] = beta == 0.0F ? Out(0.0F) : static_cast<Out>(beta * static_cast<float>(row[j]));
    }
  }

  static constexpr index_t depth_step = 64;
  /// The part of a depth that is a matmul of its own; all of it where there is no rest.
  static index_t first_depth(index_t depth) {
    return depth > depth_step ? depth / depth_step * depth_step : depth;
  }

  /// Where a matmul writes: to C, or to scratch memory.
  struct Target {
    Target(float alpha, float beta, index_t depth, index_t stride_)
        : direct(alpha == 1.0F && (beta == 0.0F || beta == 1.0F) &&
                 (std::is_same_v<Out, float> || first_depth(depth) == depth)),
          accumulate(direct && beta != 0.0F),
          stride(stride_) {}
    bool direct;      ///< to C; a sum of two matmuls is rounded to 16 bits once
    bool accumulate;  ///< C +=
    index_t stride;   ///< of C
  };

  /// The matmuls of one tile.
  struct OverDepth {
    Matmul* first = nullptr;
    Matmul* rest = nullptr;  ///< null: there is no rest
    index_t rest_in_a = 0;   ///< numbers from the first one's A to the rest's
    index_t rest_in_b = 0;   ///< and B

    void run(const dnnl::stream& stream, int worker, const In* a, const In* b, void* c, void* scratch) const {
      first->run(stream, worker, a, b, c, scratch);
      if (rest != nullptr) rest->run(stream, worker, a + rest_in_a, b + rest_in_b, c, scratch);
    }
  };

  /// The matmuls of one call.
  class Matmuls {
   public:
    explicit Matmuls(Context& ctx) : cache_(ctx.matmuls()) { cache_.trim(); }
    /// Those of a tile of rows x cols.
    OverDepth find(Op op_a, Op op_b, MatrixView<const In> a, MatrixView<const In> b, index_t rows,
                   index_t cols, index_t depth, Target target) {
      Shape shape;
      shape.m = rows;
      shape.n = cols;
      shape.k = first_depth(depth);
      shape.stride_a = a.stride;
      shape.stride_b = b.stride;
      shape.stride_c = target.direct ? target.stride : cols;
      shape.transpose_a = op_a == Op::transpose;
      shape.transpose_b = op_b == Op::transpose;
      shape.accumulate = target.accumulate;
      shape.in = data_type<In>;
      shape.out = target.direct ? data_type<Out> : data_type<float>;
      OverDepth found;
      found.first = &made(shape);
      if (shape.k == depth) return found;
      found.rest_in_a = op_a == Op::none ? shape.k : shape.k * a.stride;
      found.rest_in_b = op_b == Op::none ? shape.k * b.stride : shape.k;
      shape.k = depth - shape.k;
      shape.accumulate = true;
      found.rest = &made(shape);
      return found;
    }
    /// The most that one of them takes.
    std::size_t scratch_bytes() const { return scratch_bytes_; }

   private:
    Matmul& made(const Shape& shape) {
      Matmul& found = cache_.find(shape);
      scratch_bytes_ = (std::max)(scratch_bytes_, found.scratch_bytes());
      return found;
    }
    MatmulCache& cache_;
    std::size_t scratch_bytes_ = 0;
  };

  /// Of each worker: oneDNN's scratch memory, and a product in float that is not written to C.
  class Memory {
   public:
    Memory(host::Scratch::Frame& frame, const Context& ctx, std::size_t scratch_bytes, index_t numbers)
        : product_bytes_(round_up(numbers * static_cast<index_t>(sizeof(float)))),
          own_bytes_(product_bytes_ + round_up(static_cast<index_t>(scratch_bytes))),
          memory_(frame.take<std::byte>(own_bytes_ * ctx.threads())) {}
    float* product(int worker) const { return reinterpret_cast<float*>(memory_ + own_bytes_ * worker); }
    std::byte* scratch(int worker) const { return memory_ + own_bytes_ * worker + product_bytes_; }

   private:
    static index_t round_up(index_t bytes) { return (bytes + 127) / 128 * 128; }
    index_t product_bytes_, own_bytes_;
    std::byte* memory_;
  };

  static void run(Context& ctx, int worker, const OverDepth& matmuls, Target target, float alpha, const In* a,
                  const In* b, float beta, MatrixView<Out> c, const Memory& memory) {
    const dnnl::stream& stream = ctx.matmuls().stream(worker);
    if (target.direct) return matmuls.run(stream, worker, a, b, c.data, memory.scratch(worker));
    float* product = memory.product(worker);
    matmuls.run(stream, worker, a, b, product, memory.scratch(worker));
    for (index_t i = 0; i < c.rows; ++i, product += c.cols)
      write(alpha, product, beta, c.row(i), c.cols);
  }
  /// C = alpha product + beta C; beta = 0 overwrites NaN.
  static void write(float alpha, const float* product, float beta, Out* c, index_t n) {
    if constexpr (std::is_same_v<Out, float>) {
      if (beta == 0.0F) {
        for (index_t j = 0; j < n; ++j)
          c[j] = alpha * product[j];
      } else {
        for (index_t j = 0; j < n; ++j)
          c[j] = alpha * product[j] + beta * c[j];
      }
    } else {
      constexpr index_t piece = 256;
      float numbers[piece];
      for (index_t first = 0; first < n; first += piece) {
        const index_t count = (std::min)(piece, n - first);
        if (beta == 0.0F) {
          std::fill(numbers, numbers + count, 0.0F);
        } else {
          host::Convert::widen_array(c + first, numbers, count);
        }
        for (index_t j = 0; j < count; ++j)
          numbers[j] = alpha * product[first + j] + beta * numbers[j];
        host::Convert::round_array(numbers, c + first, count);
      }
    }
  }

  struct Tiles {
    index_t m, n;          ///< extents of C
    index_t down, across;  ///< number of tiles
    index_t rows, cols;    ///< of all but the last ones
    index_t last_rows() const { return m - (down - 1) * rows; }
    index_t last_cols() const { return n - (across - 1) * cols; }
  };

  /// At most 256 x 768 numbers each, alike in size, or 256 x 384 where oneDNN reads B as it lies
  /// (twice as fast for a deep B, while a B that is copied serves the more columns the better);
  /// without determinism so many that all threads have the same number of them.
  static Tiles partition(const host::HostContext& ctx, Op op_a, Op op_b, index_t m, index_t n, index_t k) {
    if (work(m, n, k) < serial_limit) return cut(m, n, 1, 1);
    index_t down = (m + 255) / 256;
    const index_t widest = op_a == Op::none && op_b == Op::none ? 384 : 768;
    index_t across = (n + widest - 1) / widest;
    Tiles tiles = cut(m, n, down, across);
    const index_t threads = ctx.deterministic() ? 1 : ctx.threads();
    const auto uneven = [&] {
      const index_t count = tiles.down * tiles.across;
      return count % threads != 0 && count < 8 * threads && (std::max)(tiles.rows, tiles.cols) > 64;
    };
    while (uneven()) {
      ++(tiles.rows >= tiles.cols ? down : across);
      tiles = cut(m, n, down, across);
    }
    return tiles;
  }
  /// Into about down x across tiles whose extents suit the vectors.
  static Tiles cut(index_t m, index_t n, index_t down, index_t across) {
    const auto edge = [](index_t extent, index_t pieces, index_t step) {
      return (std::min)(extent, ((extent + pieces - 1) / pieces + step - 1) / step * step);
    };
    const index_t rows = edge(m, down, 16);
    const index_t cols = edge(n, across, 32);
    return {m, n, (m + rows - 1) / rows, (n + cols - 1) / cols, rows, cols};
  }

  static const In* row_of(Op op, MatrixView<const In> a, index_t first) {
    return op == Op::none ? a.data + first * a.stride : a.data + first;
  }
  static const In* col_of(Op op, MatrixView<const In> b, index_t first) {
    return op == Op::none ? b.data + first : b.data + first * b.stride;
  }
  static MatrixView<const In> rows_of(Op op, MatrixView<const In> a, index_t first, index_t count) {
    return op == Op::none ? a.block(first, 0, count, a.cols) : a.block(0, first, a.rows, count);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn
