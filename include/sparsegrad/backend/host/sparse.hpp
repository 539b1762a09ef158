// Primitives over scattered entries and rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"
#include "context.hpp"
#include "elementwise.hpp"
#include "lanes.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

struct Sparse {
  template <class T>
  static void gather(HostContext& ctx, const T* x, const stored_index_t* index, index_t k, T* value) {
    ctx.parallel_ranges(k, 16384, [&](index_t begin, index_t end) {
      for (index_t e = begin; e < end; ++e)
        value[e] = x[index[e]];
    });
  }

  template <class T>
  static void scatter(HostContext& ctx, const T* value, const stored_index_t* index, index_t k, T* x) {
    ctx.parallel_ranges(k, 16384, [&](index_t begin, index_t end) {
      for (index_t e = begin; e < end; ++e)
        x[index[e]] = value[e];
    });
  }

  /// M(row[e], col[e]) += value[e]; no two entries have the same place.
  template <class T>
  static void scatter_add(HostContext& ctx, const stored_index_t* row, const stored_index_t* col,
                          const T* value, index_t k, MatrixView<T> m) {
    ctx.parallel_ranges(k, 16384, [&](index_t begin, index_t end) {
      for (index_t e = begin; e < end; ++e)
        m(row[e], col[e]) += value[e];
    });
  }

  /// P.row(s) = F.row(list[s]).
  template <class T>
  static void gather_rows(HostContext& ctx, MatrixView<const T> f, const stored_index_t* list, index_t q,
                          MatrixView<T> p) {
    on_rows(ctx, q, p.cols, false, [&](index_t s, index_t begin, index_t end) {
      const T* from = f.row(list[s]);
      std::copy(from + begin, from + end, p.row(s) + begin);
    });
  }

  /// M.col(list[s]) += P.row(s), list[] without repeats: by tiles of P, transposed, so that both
  /// matrices come by full cache lines of a row.
  template <class T>
  static void add_columns(HostContext& ctx, MatrixView<const T> p, const stored_index_t* list,
                          MatrixView<T> m) {
    constexpr index_t width = 64;
    constexpr index_t height = 128 / static_cast<index_t>(sizeof(T));
    if (p.empty()) return;
    const index_t tasks = (p.cols + height - 1) / height;
    ctx.parallel_ranges(tasks, std::max<index_t>(1, 1024 / p.rows), [&](index_t begin, index_t end) {
      T tile[static_cast<std::size_t>(height * width)];
      for (index_t task = begin; task < end; ++task) {
        const index_t first = task * height;
        const index_t rows = (std::min)(height, p.cols - first);
        for (index_t s = 0; s < p.rows; s += width) {
          const index_t count = (std::min)(width, p.rows - s);
          const stored_index_t* at = list + s;
          Elementwise::transpose_block(p.block(s, first, count, rows), tile, width);
          bool neighbours = true;
          for (index_t j = 1; j < count; ++j)
            neighbours &= at[j] == at[0] + j;
          for (index_t i = 0; i < rows; ++i) {
            const T* x = tile + i * width;
            T* y = m.row(first + i);
            if (neighbours) {
              y += at[0];
              for (index_t j = 0; j < count; ++j)
                y[j] += x[j];
            } else {
              for (index_t j = 0; j < count; ++j)
                y[at[j]] += x[j];
            }
          }
        }
      }
    });
  }

  /// M.row(row[e]) += value[e] F.row(col[e]), row[] rising; the sums of a row run in the order of
  /// the entries.
  template <class T>
  static void expand_rows(HostContext& ctx, const stored_index_t* row, const stored_index_t* col,
                          const T* value, index_t k, MatrixView<const T> f, MatrixView<T> m) {
    if (k == 0 || m.cols == 0) return;
    constexpr index_t width = strip_width<T>;
    if (k < 2 * f.rows || m.cols < width) {  // too few entries to pay for packing F
      ctx.parallel_ranges(m.cols, std::max<index_t>(width, 65536 / k), [&](index_t begin, index_t end) {
        for (index_t e = 0; e < k; ++e) {
          const T* x = f.row(col[e]);
          T* y = m.row(row[e]);
          const T by = value[e];
          for (index_t j = begin; j < end; ++j)
            y[j] += by * x[j];
        }
      });
      return;
    }
    // Strips of columns: F's strip, packed without gaps, stays in the cache while all entries pass
    // over it.
    const index_t strips = (m.cols + width - 1) / width;
    Scratch::Frame frame(ctx.scratch());
    T* memory = frame.take<T>(f.rows * width * ctx.threads());
    ctx.parallel_for(strips, [&](index_t strip, int worker) {
      const index_t first = strip * width;
      const index_t w = (std::min)(width, m.cols - first);
      T* pack = memory + f.rows * width * worker;
      for (index_t i = 0; i < f.rows; ++i) {
        const T* from = f.row(i) + first;
        for (index_t j = 0; j < w; ++j)
          pack[i * width + j] = from[j];
        for (index_t j = w; j < width; ++j)
          pack[i * width + j] = T(0);
      }
      for (index_t e = 0; e < k;) {
        T* y = m.row(row[e]) + first;
        if (w == width) {
          e = add_rows_of(e, k, row, col, value, pack, y);
          continue;
        }
        T edge[static_cast<std::size_t>(width)] = {};
        std::copy(y, y + w, edge);
        e = add_rows_of(e, k, row, col, value, pack, edge);
        std::copy(edge, edge + w, y);
      }
    });
  }

  /// value[e] += sum_t A(t, i) B(t, j), index[e] = i cols + j. 16-bit numbers become floats as their
  /// blocks are transposed.
  template <class T>
  static void sampled_product(HostContext& ctx, MatrixView<const T> a, MatrixView<const T> b,
                              const stored_index_t* index, index_t k, index_t cols, compute_t<T>* value) {
    using C = compute_t<T>;
    if (k == 0 || a.rows == 0) return;
    if (8 * k < a.cols + b.cols) {  // too few entries to pay for transposing A and B
      ctx.parallel_ranges(k, std::max<index_t>(1, 16384 / a.rows), [&](index_t begin, index_t end) {
        for (index_t e = begin; e < end; ++e)
          value[e] +=
              strided_product(a.data + index[e] / cols, a.stride, b.data + index[e] % cols, b.stride, a.rows);
      });
      return;
    }
    // Blocks of tokens, transposed: the entries' sums run along contiguous pieces of two rows. A
    // block of the smaller side stays in the cache, and of the wider side what is transposed is
    // used at once, some columns at a time.
    constexpr index_t tokens = 8 * Lanes<C>::count;
    const bool by_columns = b.cols > a.cols;
    const MatrixView<const T> outer = by_columns ? b : a;
    const MatrixView<const T> inner = by_columns ? a : b;
    Scratch::Frame frame(ctx.scratch());
    auto* order = frame.take<stored_index_t>(k);
    auto* inner_of = frame.take<stored_index_t>(k);
    auto* end_of = frame.take<stored_index_t>(outer.cols);  // of the entries of a column of `outer`
    C* sums = frame.take<C>(k);
    std::fill(end_of, end_of + outer.cols, 0);
    each_place(index, k, cols, [&](index_t, index_t i, index_t j) { ++end_of[by_columns ? j : i]; });
    stored_index_t begin = 0;
    for (index_t o = 0; o < outer.cols; ++o)
      begin += std::exchange(end_of[o], begin);
    each_place(index, k, cols, [&](index_t e, index_t i, index_t j) {
      const stored_index_t p = end_of[by_columns ? j : i]++;
      order[p] = static_cast<stored_index_t>(e);
      inner_of[p] = static_cast<stored_index_t>(by_columns ? i : j);
    });
    std::fill(sums, sums + k, C(0));

    const index_t width = std::clamp<index_t>(outer.cols / (4 * ctx.threads()) / 16 * 16, 64, 256);
    C* inner_block = frame.take<C>(inner.cols * tokens);
    C* outer_blocks = frame.take<C>(width * tokens * ctx.threads());
    for (index_t first = 0; first < a.rows; first += tokens) {
      const index_t count = (std::min)(tokens, a.rows - first);
      constexpr index_t tile = 64 / static_cast<index_t>(sizeof(T));  // a cache line
      ctx.parallel_ranges((inner.cols + tile - 1) / tile, 8, [&](index_t from, index_t to) {
        const index_t left = from * tile;
        const index_t right = (std::min)(to * tile, inner.cols);
        transpose_padded(inner.block(first, left, count, right - left), inner_block + left * tokens, tokens);
      });
      ctx.parallel_for((outer.cols + width - 1) / width, [&](index_t strip, int worker) {
        const index_t left = strip * width;
        const index_t right = (std::min)(left + width, outer.cols);
        index_t p = left == 0 ? 0 : end_of[left - 1];
        if (p == end_of[right - 1]) return;
        C* block = outer_blocks + worker * width * tokens;
        transpose_padded(outer.block(first, left, count, right - left), block, tokens);
        for (index_t o = left; o < right; ++o) {
          add_products(block + (o - left) * tokens, inner_block, inner_of + p, end_of[o] - p, sums + p);
          p = end_of[o];
        }
      });
    }
    for (index_t p = 0; p < k; ++p)
      value[order[p]] += sums[p];
  }

  static index_t group_support(HostContext& ctx, const stored_index_t* index, index_t k, index_t /*rows*/,
                               index_t cols, bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    index_t used = 0;
    if (!columns) {
      index_t last = -1;
      each_place(index, k, cols, [&](index_t e, index_t i, index_t j) {
        if (i != last) list[used++] = static_cast<stored_index_t>(last = i);
        group[e] = static_cast<stored_index_t>(used - 1);
        other[e] = static_cast<stored_index_t>(j);
        order[e] = static_cast<stored_index_t>(e);
      });
      return used;
    }
    // A counting sort, which keeps the entries of a column in their order.
    Scratch::Frame frame(ctx.scratch());
    auto* place = frame.take<stored_index_t>(cols);
    auto* number_of = frame.take<stored_index_t>(cols);
    std::fill(place, place + cols, 0);
    each_place(index, k, cols, [&](index_t, index_t, index_t j) { ++place[j]; });
    stored_index_t begin = 0;
    for (index_t j = 0; j < cols; ++j) {
      const stored_index_t count = place[j];
      number_of[j] = static_cast<stored_index_t>(used);
      if (count > 0) list[used++] = static_cast<stored_index_t>(j);
      place[j] = begin;
      begin += count;
    }
    each_place(index, k, cols, [&](index_t e, index_t i, index_t j) {
      const stored_index_t p = place[j]++;
      group[p] = number_of[j];
      other[p] = static_cast<stored_index_t>(i);
      order[p] = static_cast<stored_index_t>(e);
    });
    return used;
  }

 private:
  /// Columns of one strip in expand_rows: their sums fill the registers.
  template <class T>
  static constexpr index_t strip_width = 128 / static_cast<index_t>(sizeof(T));

  /// f(e, i, j) for the entries e of a support, index[e] = i cols + j, rising: a division a row,
  /// not one an entry.
  template <class F>
  [[gnu::always_inline]] static void each_place(const stored_index_t* index, index_t k, index_t cols, F&& f) {
    index_t i = 0;
    index_t begin = 0;
    for (index_t e = 0; e < k; ++e) {
      const index_t x = index[e];
      if (x - begin >= cols || x < begin) {
        i = x / cols;
        begin = i * cols;
      }
      f(e, i, x - begin);
    }
  }

  /// to[j, 0 .. rows) = column j of A, zeros up to `stride`.
  template <class T>
  static void transpose_padded(MatrixView<const T> a, compute_t<T>* to, index_t stride) {
    Elementwise::transpose_block(a, to, stride);
    for (index_t j = 0; a.rows < stride && j < a.cols; ++j)
      std::fill(to + j * stride + a.rows, to + (j + 1) * stride, compute_t<T>(0));
  }

  /// Adds to y [strip_width] the products of all entries from e on that share a row; returns the
  /// next entry.
  template <class T>
  static index_t add_rows_of(index_t e, index_t k, const stored_index_t* row, const stored_index_t* col,
                             const T* value, const T* pack, T* y) {
    constexpr index_t width = strip_width<T>;
    constexpr index_t n = Lanes<T>::count;
    constexpr index_t registers = width / n;
    static_assert(registers == 4 || registers == 8);
    Lanes<T> s0 = Lanes<T>::load(y);
    Lanes<T> s1 = Lanes<T>::load(y + n);
    Lanes<T> s2 = Lanes<T>::load(y + 2 * n);
    Lanes<T> s3 = Lanes<T>::load(y + 3 * n);
    if constexpr (registers == 4) {
      for (const stored_index_t i = row[e]; e < k && row[e] == i; ++e) {
        const T* x = pack + col[e] * width;
        s0.add_product(value[e], x);
        s1.add_product(value[e], x + n);
        s2.add_product(value[e], x + 2 * n);
        s3.add_product(value[e], x + 3 * n);
      }
    } else {
      Lanes<T> s4 = Lanes<T>::load(y + 4 * n);
      Lanes<T> s5 = Lanes<T>::load(y + 5 * n);
      Lanes<T> s6 = Lanes<T>::load(y + 6 * n);
      Lanes<T> s7 = Lanes<T>::load(y + 7 * n);
      for (const stored_index_t i = row[e]; e < k && row[e] == i; ++e) {
        const T* x = pack + col[e] * width;
        s0.add_product(value[e], x);
        s1.add_product(value[e], x + n);
        s2.add_product(value[e], x + 2 * n);
        s3.add_product(value[e], x + 3 * n);
        s4.add_product(value[e], x + 4 * n);
        s5.add_product(value[e], x + 5 * n);
        s6.add_product(value[e], x + 6 * n);
        s7.add_product(value[e], x + 7 * n);
      }
      s4.store(y + 4 * n);
      s5.store(y + 5 * n);
      s6.store(y + 6 * n);
      s7.store(y + 7 * n);
    }
    s0.store(y);
    s1.store(y + n);
    s2.store(y + 2 * n);
    s3.store(y + 3 * n);
    return e;
  }

  /// sums[e] += x . (row at[e] of y), rows of 8 registers: x stays in them, and four sums are
  /// finished together.
  template <class T>
  [[gnu::always_inline]] static void add_products(const T* x, const T* y, const stored_index_t* at,
                                                  index_t count, T* sums) {
    constexpr index_t n = Lanes<T>::count;
    using Vector = typename Lanes<T>::Vector;
    if (count == 0) return;
    const Vector x0 = Lanes<T>::load(x).v;
    const Vector x1 = Lanes<T>::load(x + n).v;
    const Vector x2 = Lanes<T>::load(x + 2 * n).v;
    const Vector x3 = Lanes<T>::load(x + 3 * n).v;
    const Vector x4 = Lanes<T>::load(x + 4 * n).v;
    const Vector x5 = Lanes<T>::load(x + 5 * n).v;
    const Vector x6 = Lanes<T>::load(x + 6 * n).v;
    const Vector x7 = Lanes<T>::load(x + 7 * n).v;
    const auto product = [&](index_t e) {
      const T* row = y + at[(std::min)(e, count - 1)] * 8 * n;
      Vector s = x0 * Lanes<T>::load(row).v;
      s += x1 * Lanes<T>::load(row + n).v;
      s += x2 * Lanes<T>::load(row + 2 * n).v;
      s += x3 * Lanes<T>::load(row + 3 * n).v;
      s += x4 * Lanes<T>::load(row + 4 * n).v;
      s += x5 * Lanes<T>::load(row + 5 * n).v;
      s += x6 * Lanes<T>::load(row + 6 * n).v;
      s += x7 * Lanes<T>::load(row + 7 * n).v;
      return Lanes<T>{s};
    };
    for (index_t e = 0; e < count; e += 4) {
      T four[4];
      sums_of(product(e), product(e + 1), product(e + 2), product(e + 3), four);
      for (index_t l = 0; l < 4 && e + l < count; ++l)
        sums[e + l] += four[l];
    }
  }

  template <class T>
  static compute_t<T> strided_product(const T* x, index_t x_stride, const T* y, index_t y_stride,
                                      index_t count) {
    double sum = 0;
    for (index_t t = 0; t < count; ++t)
      sum += static_cast<double>(x[t * x_stride]) * static_cast<double>(y[t * y_stride]);
    return static_cast<compute_t<T>>(sum);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
