// Sums and element-wise primitives on bfloat16 and float16.
#pragma once

#include <algorithm>
#include <cstring>

#include "../../core/view.hpp"
#include "context.hpp"
#include "convert.hpp"
#include "elementwise.hpp"

namespace sparsegrad::backend::host {

/// The primitives add_to_rows and column_sums of LowPrecisionBackend (core/backend.hpp).
struct LowPrecisionElements {
  /// Every row of A += v, each sum rounded once.
  template <class S>
  static void add_to_rows(HostContext& ctx, const S* v, MatrixView<S> a) {
    on_rows(ctx, a.rows, a.cols, false, [&](index_t i, index_t begin, index_t end) {
      add_array(v + begin, a.row(i) + begin, end - begin);
    });
  }

  /// s[j] += sum_i A(i, j), summed in double from the first row to the last.
  template <class S>
  static void column_sums(HostContext& ctx, MatrixView<const S> a, float* sums) {
    constexpr index_t width = 128;
    const index_t strips = (a.cols + width - 1) / width;
    const index_t grain = std::max<index_t>(1, 16384 / (width * std::max<index_t>(a.rows, 1)));
    ctx.parallel_ranges(strips, grain, [&](index_t begin, index_t end) {
      for (index_t strip = begin; strip < end; ++strip) {
        const index_t first = strip * width;
        sums_of_strip(a.block(0, first, a.rows, std::min(width, a.cols - first)), sums + first);
      }
    });
  }

 private:
  /// Columns whose sums stay in registers while some rows pass.
  static constexpr index_t panel = 2 * LowPrecisionLanes<bfloat16>::count;

  template <class S>
  [[gnu::noinline]] static void add_array(const S* v, S* x, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t j = 0;
    for (; j + Lanes::count <= n; j += Lanes::count) {
      Lanes sum, term;
      sum.load(x + j);
      term.load(v + j);
      sum.v += term.v;
      sum.store(x + j);
    }
    for (; j < n; ++j)
      x[j] = static_cast<S>(static_cast<float>(x[j]) + static_cast<float>(v[j]));
  }

  /// Some rows at a time, so that a strip's cache lines are used while they are near.
  template <class S>
  static void sums_of_strip(MatrixView<const S> a, float* sums) {
    constexpr index_t height = 16;
    double total[128] = {};
    for (index_t i = 0; i < a.rows; i += height) {
      const index_t count = std::min(height, a.rows - i);
      index_t j = 0;
      for (; j + panel <= a.cols; j += panel)
        add_panel(a.data + i * a.stride + j, a.stride, count, total + j);
      for (; j < a.cols; ++j)
        for (index_t l = 0; l < count; ++l)
          total[j] += static_cast<double>(static_cast<float>(a.data[(i + l) * a.stride + j]));
    }
    for (index_t j = 0; j < a.cols; ++j)
      sums[j] = static_cast<float>(static_cast<double>(sums[j]) + total[j]);
  }

  /// total[0 .. panel) += the sums of the columns of `rows` rows.
  template <class S>
  [[gnu::noinline]] static void add_panel(const S* x, index_t stride, index_t rows, double* total) {
    typedef float Four __attribute__((vector_size(16)));
    typedef double Sum __attribute__((vector_size(32)));
    static_assert(panel == 16);
    Sum s0, s1, s2, s3;
    std::memcpy(&s0, total, sizeof s0);
    std::memcpy(&s1, total + 4, sizeof s1);
    std::memcpy(&s2, total + 8, sizeof s2);
    std::memcpy(&s3, total + 12, sizeof s3);
    for (index_t i = 0; i < rows; ++i, x += stride) {
      LowPrecisionLanes<S> low, high;
      low.load(x);
      high.load(x + 8);
      Four four[4];
      std::memcpy(four, &low.v, sizeof low.v);
      std::memcpy(four + 2, &high.v, sizeof high.v);
      s0 += __builtin_convertvector(four[0], Sum);
      s1 += __builtin_convertvector(four[1], Sum);
      s2 += __builtin_convertvector(four[2], Sum);
      s3 += __builtin_convertvector(four[3], Sum);
    }
    std::memcpy(total, &s0, sizeof s0);
    std::memcpy(total + 4, &s1, sizeof s1);
    std::memcpy(total + 8, &s2, sizeof s2);
    std::memcpy(total + 12, &s3, sizeof s3);
  }
};

}  // namespace sparsegrad::backend::host
