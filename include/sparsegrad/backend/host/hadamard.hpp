// The randomised block Hadamard transform in O(n log n), in place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "../../core/backend.hpp"
#include "arrays.hpp"
#include "context.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// H = (I - 2/m 1 1^T) (x) H_b diag(signs), n = m b, b the largest power of two that divides n; the
/// inverse is the transpose. Vectors along the rows are transformed where they lie; columns in
/// strips that are copied into scratch memory, where each stage works on full rows of the strip.
/// Every vector's arithmetic is the same for any number of threads.
template <class T>
class HadamardTransform {
 public:
  static void run(HostContext& ctx, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    if (a.empty()) return;
    const HadamardTransform transform(signs, inverse, side == TransformSide::rows ? a.cols : a.rows);
    side == TransformSide::rows ? transform.along_rows(ctx, a) : transform.along_columns(ctx, a);
  }

 private:
  static constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));  ///< elements of a cache line
  static constexpr index_t cache_size =
      16384 / static_cast<index_t>(sizeof(T));  ///< elements that stay in the L1

  HadamardTransform(const T* signs, bool inverse, index_t n)
      : signs_(signs),
        inverse_(inverse),
        n_(n),
        b_(n & -n),
        m_(n / b_),
        factor_(static_cast<T>(1 / std::sqrt(static_cast<double>(b_)))),
        mean_(m_ > 1 ? static_cast<T>(2 / static_cast<double>(m_)) : T(0)) {}

  void along_rows(HostContext& ctx, MatrixView<T> a) const {
    Scratch::Frame frame(ctx.scratch());
    T* memory = frame.take<T>(b_ * ctx.threads());
    const index_t grain = std::max<index_t>(1, 32768 / n_);  // vectors a task
    ctx.parallel_for((a.rows + grain - 1) / grain, [&](index_t task, int worker) {
      const index_t end = (std::min)((task + 1) * grain, a.rows);
      for (index_t i = task * grain; i < end; ++i) {
        T* x = a.row(i);
        // before(j), in the same order of factors.
        if (inverse_) {
          scale_array(factor_, x, n_);
        } else {
          multiply_array(factor_, signs_, x, n_);
        }
        mix(x, b_, 1, memory + b_ * worker);
        if (!inverse_) continue;
        multiply_array(T(1), signs_, x, n_);
      }
    });
  }

  /// Rows of `a` lie far apart, so a long transform takes them in two passes of few rows each, as
  /// H_b = (H_high (x) I) (I (x) H_low): first rows `low` apart, then `low` neighbours of every
  /// block.
  void along_columns(HostContext& ctx, MatrixView<T> a) const {
    index_t low = b_;
    while (low > 32 && low * low > b_)
      low /= 2;
    const index_t high = b_ / low;
    const auto from_signs = [&](index_t i) { return before(i); };
    const auto to_signs = [&](index_t i) { return inverse_ ? signs_[i] : T(1); };
    const auto one = [](index_t) { return T(1); };
    if (high > 1) {
      on_strips(
          ctx, a, m_ * low, high,
          [&](index_t group, index_t s) { return group / low * b_ + group % low + s * low; },
          [&](T* x, index_t w, T*) { hadamard(x, w, high * w); }, from_signs, one);
    }
    const auto neighbours = [&](index_t group, index_t s) { return s / low * b_ + group * low + s % low; };
    const auto rest = [&](T* x, index_t w, T* sums) { mix(x, low, w, sums); };
    if (high > 1) {
      on_strips(ctx, a, high, m_ * low, neighbours, rest, one, to_signs);
    } else {
      on_strips(ctx, a, high, m_ * low, neighbours, rest, from_signs, to_signs);
    }
  }

  /// For every group: copies its rows row(group, 0 .. count - 1), strip by strip, times enter(row),
  /// to scratch memory, calls stage(x [count, w], w, spare [count, w]) there, and writes them back
  /// times leave(row).
  template <class Row, class Stage, class Enter, class Leave>
  void on_strips(HostContext& ctx, MatrixView<T> a, index_t groups, index_t count, Row row, Stage stage,
                 Enter enter, Leave leave) const {
    const index_t fitting = cache_size / count / line * line;
    const index_t width = (std::min)(std::clamp<index_t>(fitting, line, 16 * line), a.cols);
    const index_t strips = (a.cols + width - 1) / width;
    const index_t per_task = std::clamp<index_t>(32768 / (count * width), 1, strips);
    const index_t tasks = (strips + per_task - 1) / per_task;
    const index_t own = 2 * count * width;
    Scratch::Frame frame(ctx.scratch());
    T* memory = frame.take<T>(own * ctx.threads());
    ctx.parallel_for(groups * tasks, [&](index_t task, int worker) {
      const index_t group = task / tasks;
      T* x = memory + own * worker;
      const index_t end = (std::min)((task % tasks + 1) * per_task, strips);
      for (index_t strip = task % tasks * per_task; strip < end; ++strip) {
        const index_t first = strip * width;
        const index_t w = (std::min)(width, a.cols - first);
        for (index_t s = 0; s < count; ++s) {
          const index_t i = row(group, s);
          scaled(enter(i), a.row(i) + first, x + s * w, w);
        }
        stage(x, w, x + count * w);
        for (index_t s = 0; s < count; ++s) {
          const index_t i = row(group, s);
          scaled(leave(i), x + s * w, a.row(i) + first, w);
        }
      }
    });
  }

  static void scaled(T by, const T* from, T* to, index_t count) {
    index_t j = over_lanes<T>(count, [=](index_t at) {
      auto x = Lanes<T>::load(from + at);
      x.v *= by;
      x.store(to + at);
    });
    for (; j < count; ++j)
      to[j] = by * from[j];
  }

  /// Factor of entry i ahead of the butterflies: the orthonormal scaling, and the signs on the way
  /// there.
  T before(index_t i) const { return inverse_ ? factor_ : factor_ * signs_[i]; }

  /// (I - 2/m 1 1^T) (x) sqrt(length) H_length on `width` vectors side by side: x [m length,
  /// width], sums [length, width].
  void mix(T* x, index_t length, index_t width, T* sums) const {
    const index_t size = length * width;
    for (index_t block = 0; block < m_; ++block)
      hadamard(x + block * size, width, size);
    if (m_ == 1) return;
    std::copy(x, x + size, sums);
    for (index_t block = 1; block < m_; ++block)
      add_array(T(1), x + block * size, sums, size);
    scale_array(mean_, sums, size);
    for (index_t block = 0; block < m_; ++block)
      add_array(T(-1), sums, x + block * size, size);
  }

  /// All butterflies between elements `step`, 2 step, ... size / 2 apart. From the widest down, so
  /// that the later stages of a long vector find their part in the cache.
  static void hadamard(T* x, index_t step, index_t size) {
    if (size > cache_size && size >= 4 * step) {
      const index_t quarter = size / 4;
      radix4(x, quarter);
      for (index_t part = 0; part < 4; ++part)
        hadamard(x + part * quarter, step, quarter);
      return;
    }
    index_t h = size;
    const index_t lowest = step == 1 && size >= edge ? edge : step;
    for (; h >= 4 * lowest; h /= 4)
      for (T* part = x; part < x + size; part += h)
        radix4(part, h / 4);
    if (h >= 2 * lowest) {
      for (T* part = x; part < x + size; part += h)
        radix2(part, h / 2);
    }
    if (lowest != step) {
      for (T* part = x; part < x + size; part += edge)
        lowest_stages(part);
    }
  }

  static void radix2(T* x, index_t h) {
    T* y = x + h;
    index_t j = over_lanes<T>(h, [=](index_t at) {
      const auto a = Lanes<T>::load(x + at).v, b = Lanes<T>::load(y + at).v;
      Lanes<T>{a + b}.store(x + at);
      Lanes<T>{a - b}.store(y + at);
    });
    for (; j < h; ++j) {
      const T a = x[j];
      const T b = y[j];
      x[j] = a + b;
      y[j] = a - b;
    }
  }

  static void radix4(T* x0, index_t h) {
    T* x1 = x0 + h;
    T* x2 = x0 + 2 * h;
    T* x3 = x0 + 3 * h;
    index_t j = over_lanes<T>(h, [=](index_t at) {
      const auto y0 = Lanes<T>::load(x0 + at).v, y1 = Lanes<T>::load(x1 + at).v;
      const auto y2 = Lanes<T>::load(x2 + at).v, y3 = Lanes<T>::load(x3 + at).v;
      const auto a = y0 + y2, b = y1 + y3, c = y0 - y2, d = y1 - y3;
      Lanes<T>{a + b}.store(x0 + at);
      Lanes<T>{a - b}.store(x1 + at);
      Lanes<T>{c + d}.store(x2 + at);
      Lanes<T>{c - d}.store(x3 + at);
    });
    for (; j < h; ++j) {
      const T a = x0[j] + x2[j];
      const T b = x1[j] + x3[j];
      const T c = x0[j] - x2[j];
      const T d = x1[j] - x3[j];
      x0[j] = a + b;
      x1[j] = a - b;
      x2[j] = c + d;
      x3[j] = c - d;
    }
  }

  static constexpr index_t edge = 8;

  /// The stages within 8 neighbours, as sums of the rows of H_8: along a vector register there is
  /// nothing to gain from butterflies.
  static void lowest_stages(T* x) {
    static constexpr T rows[edge][edge] = {{1, 1, 1, 1, 1, 1, 1, 1},     {1, -1, 1, -1, 1, -1, 1, -1},
                                           {1, 1, -1, -1, 1, 1, -1, -1}, {1, -1, -1, 1, 1, -1, -1, 1},
                                           {1, 1, 1, 1, -1, -1, -1, -1}, {1, -1, 1, -1, -1, 1, -1, 1},
                                           {1, 1, -1, -1, -1, -1, 1, 1}, {1, -1, -1, 1, -1, 1, 1, -1}};
    constexpr index_t count = Lanes<T>::count;
    static_assert(edge % count == 0);
    Lanes<T> y[static_cast<std::size_t>(edge / count)];
    for (index_t i = 0; i < edge; ++i)
      for (index_t part = 0; part < edge / count; ++part)
        y[part].add_product(x[i], rows[i] + part * count);
    for (index_t part = 0; part < edge / count; ++part)
      y[part].store(x + part * count);
  }

  const T* signs_;
  bool inverse_;
  index_t n_;
  index_t b_;
  index_t m_;
  T factor_;
  T mean_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
