// Element-wise primitives and reductions of the host backends.
#pragma once

#include <algorithm>
#include <cstring>

#include "../../core/view.hpp"
#include "arrays.hpp"
#include "context.hpp"
#include "lanes.hpp"
#include "magnitude_bits.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// Calls f(i, begin, end) for parts of the rows i, which together cover rows x cols, side by side.
/// `flat`: the matrices lie without gaps and may be taken as one row.
template <class F>
void on_rows(HostContext& ctx, index_t rows, index_t cols, bool flat, F&& f) {
  if (rows == 0 || cols == 0) return;
  constexpr index_t grain = 32768;
  if (flat) {
    ctx.parallel_ranges(rows * cols, grain, [&](index_t begin, index_t end) { f(0, begin, end); });
    return;
  }
  ctx.parallel_ranges(rows, std::max<index_t>(1, grain / cols), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      f(i, 0, cols);
  });
}

struct Elementwise {
  template <class T>
  static void zero(HostContext& ctx, T* p, index_t n) {
    on_rows(ctx, 1, n, true,
            [&](index_t, index_t begin, index_t end) { std::fill(p + begin, p + end, T(0)); });
  }

  template <class T>
  static void copy_array(HostContext& ctx, const T* from, T* to, index_t n) {
    on_rows(ctx, 1, n, true,
            [&](index_t, index_t begin, index_t end) { std::copy(from + begin, from + end, to + begin); });
  }

  template <class T>
  static void copy(HostContext& ctx, MatrixView<const T> a, MatrixView<T> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              std::copy(a.row(i) + begin, a.row(i) + end, b.row(i) + begin);
            });
  }

  template <class T>
  static void scale(HostContext& ctx, T alpha, MatrixView<T> a) {
    on_rows(ctx, a.rows, a.cols, a.contiguous(), [&](index_t i, index_t begin, index_t end) {
      scale_array(alpha, a.row(i) + begin, end - begin);
    });
  }

  /// B += alpha A; `Sum` is double where A is added to wider sums.
  template <class T, class Sum>
  static void add(HostContext& ctx, Sum alpha, MatrixView<const T> a, MatrixView<Sum> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              add_array(alpha, a.row(i) + begin, b.row(i) + begin, end - begin);
            });
  }

  template <class T>
  static void add_to_rows(HostContext& ctx, const T* v, MatrixView<T> a) {
    on_rows(ctx, a.rows, a.cols, false, [&](index_t i, index_t begin, index_t end) {
      add_array(T(1), v + begin, a.row(i) + begin, end - begin);
    });
  }

  /// Sums of fixed pieces of the matrix, then the sum of those: the extents alone fix the order.
  template <class T>
  static double squared_norm(HostContext& ctx, MatrixView<const T> a) {
    if (a.empty()) return 0;
    const Pieces pieces(a.rows, a.cols);
    Scratch::Frame frame(ctx.scratch());
    double* part = frame.take<double>(pieces.count());
    ctx.parallel_for(pieces.count(), [&](index_t p) {
      constexpr index_t lanes = 16;
      double sums[lanes] = {};
      pieces.each_row(p, [&](index_t i, index_t begin, index_t end) {
        const T* x = a.row(i);
        index_t j = begin;
        for (; j + lanes <= end; j += lanes) {
          for (index_t l = 0; l < lanes; ++l) {
            const auto y = static_cast<double>(x[j + l]);
            sums[l] += y * y;
          }
        }
        for (index_t l = 0; j < end; ++j, ++l) {
          const auto y = static_cast<double>(x[j]);
          sums[l] += y * y;
        }
      });
      for (index_t width = lanes / 2; width > 0; width /= 2)
        for (index_t l = 0; l < width; ++l)
          sums[l] += sums[l + width];
      part[p] = sums[0];
    });
    double sum = 0;
    for (index_t p = 0; p < pieces.count(); ++p)
      sum += part[p];
    return sum;
  }

  /// Row-major position of the first NaN or Inf, or -1.
  template <class T>
  static index_t first_nonfinite(HostContext& ctx, MatrixView<const T> a) {
    if (a.empty()) return -1;
    const Pieces pieces(a.rows, a.cols);
    Scratch::Frame frame(ctx.scratch());
    index_t* found = frame.take<index_t>(pieces.count());
    ctx.parallel_for(pieces.count(), [&](index_t p) {
      found[p] = -1;
      pieces.each_row(p, [&](index_t i, index_t begin, index_t end) {
        const index_t j = nonfinite_in(a.row(i), begin, end);
        if (j < end && found[p] < 0) found[p] = i * a.cols + j;
      });
    });
    index_t first = -1;  // pieces of one row need not be in the order of their numbers
    for (index_t p = 0; p < pieces.count(); ++p)
      if (found[p] >= 0 && (first < 0 || found[p] < first)) first = found[p];
    return first;
  }

  /// s[j] += sum_i A(i, j), summed in double from the first row to the last.
  template <class T>
  static void column_sums(HostContext& ctx, MatrixView<const T> a, T* sums) {
    constexpr index_t width = 128;
    const index_t strips = (a.cols + width - 1) / width;
    const index_t grain = std::max<index_t>(1, 16384 / (width * std::max<index_t>(a.rows, 1)));
    ctx.parallel_ranges(strips, grain, [&](index_t begin, index_t end) {
      for (index_t strip = begin; strip < end; ++strip) {
        const index_t first = strip * width;
        const index_t w = (std::min)(width, a.cols - first);
        double total[width] = {};
        for (index_t i = 0; i < a.rows; i += panel_height) {
          const index_t rows = (std::min)(panel_height, a.rows - i);
          add_rows(a.row(i) + first, a.stride, rows, w, total);
        }
        for (index_t j = 0; j < w; ++j)
          sums[first + j] = static_cast<T>(static_cast<double>(sums[first + j]) + total[j]);
      }
    });
  }

  /// B = A^T.
  template <class T>
  static void transpose(HostContext& ctx, MatrixView<const T> a, MatrixView<T> b) {
    if (a.empty()) return;
    constexpr index_t tile = 32;
    const index_t across = (a.cols + tile - 1) / tile;
    ctx.parallel_ranges(across, std::max<index_t>(1, 1024 / a.rows), [&](index_t begin, index_t end) {
      const index_t first = begin * tile;
      transpose_block(a.block(0, first, a.rows, (std::min)(end * tile, a.cols) - first), b.row(first),
                      b.stride);
    });
  }

  /// Serial; `to` has stride `stride`. Some rows at a time from left to right, asked for some cache
  /// lines ahead: the hardware follows only a few rows by itself. 16-bit numbers become floats.
  template <class From, class T>
  static void transpose_block(MatrixView<const From> a, T* to, index_t stride) {
    constexpr index_t edge = square_edge<T>;
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(From));
    constexpr index_t height = 8;
    index_t i = 0;
    for (; i + height <= a.rows; i += height) {
      const From* from = a.data + i * a.stride;
      index_t j = 0;
      for (; j + edge <= a.cols; j += edge) {
        if (j % line == 0 && j + 4 * line < a.cols) {
          for (index_t s = 0; s < height; ++s)
            __builtin_prefetch(from + s * a.stride + j + 4 * line);
        }
        for (index_t s = 0; s < height; s += edge)
          transpose_square(from + s * a.stride + j, a.stride, to + j * stride + i + s, stride);
      }
      for (; j < a.cols; ++j)
        for (index_t s = 0; s < height; ++s)
          to[j * stride + i + s] = from[s * a.stride + j];
    }
    for (; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        to[j * stride + i] = a.data[i * a.stride + j];
  }

 private:
  /// Rows that column_sums adds while sums are in registers.
  static constexpr index_t panel_height = 8;

  /// A partition of a matrix that depends on its extents alone: pieces of some rows and at most
  /// 16384 columns.
  struct Pieces {
    static constexpr index_t size = 16384;
    index_t rows, cols, width, height, across, down;

    Pieces(index_t rows_, index_t cols_) : rows(rows_), cols(cols_) {
      width = (std::min)(cols, size);
      height = size / width;
      across = (cols + width - 1) / width;
      down = (rows + height - 1) / height;
    }
    index_t count() const { return across * down; }

    template <class F>
    void each_row(index_t piece, F&& f) const {
      const index_t first = piece / across * height;
      const index_t begin = piece % across * width;
      for (index_t i = first; i < (std::min)(first + height, rows); ++i)
        f(i, begin, (std::min)(begin + width, cols));
    }
  };

  /// First position of a NaN or Inf in x[begin, end), or end.
  template <class T>
  static index_t nonfinite_in(const T* x, index_t begin, index_t end) {
    using Bits = MagnitudeBits<T>;
    constexpr index_t block = 512;
    for (index_t i = begin; i < end; i += block) {
      const index_t stop = (std::min)(i + block, end);
      if (all_finite(x + i, stop - i)) continue;
      for (index_t j = i; j < stop; ++j)
        if (Bits::of(x[j]) >= Bits::infinity) return j;
    }
    return end;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
