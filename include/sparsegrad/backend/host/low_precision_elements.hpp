// Sums and element-wise primitives on bfloat16 and float16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../../core/view.hpp"
#include "arrays.hpp"
#include "context.hpp"
#include "elementwise.hpp"
#include "lanes.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The primitives add_to_rows and column_sums of LowPrecisionBackend (core/backend.hpp).
struct LowPrecisionElements {
  /// Every row of A += v, each sum rounded once.
  template <class S>
  static void add_to_rows(HostContext& ctx, const S* v, MatrixView<S> a) {
    on_rows(ctx, a.rows, a.cols, false, [&](index_t i, index_t begin, index_t end) {
      add_array(v + begin, a.row(i) + begin, end - begin);
    });
  }

  /// s[j] += sum_i A(i, j): sums of panel_height rows in float, of those in double, from the first
  /// to the last.
  template <class S>
  static void column_sums(HostContext& ctx, MatrixView<const S> a, float* sums) {
    const index_t strips = (a.cols + strip_width - 1) / strip_width;
    const index_t grain = std::max<index_t>(1, 16384 / (strip_width * std::max<index_t>(a.rows, 1)));
    ctx.parallel_ranges(strips, grain, [&](index_t begin, index_t end) {
      for (index_t strip = begin; strip < end; ++strip) {
        const index_t first = strip * strip_width;
        sums_of_strip(a.block(0, first, a.rows, (std::min)(strip_width, a.cols - first)), sums + first);
      }
    });
  }

 private:
  /// Columns that are summed together.
  static constexpr index_t strip_width = 512;
  /// Rows whose sum is a float's.
  static constexpr index_t panel_height = 4;
  /// Columns whose sums are in registers.
  static constexpr index_t panel_width = 2 * Lanes<float>::count;

  template <class S>
  [[gnu::noinline]] static void add_array(const S* v, S* x, index_t n) {
    index_t j = 0;
    if constexpr (std::is_same_v<S, bfloat16>) {
      j = add_pairs(v, x, n);
    } else {
      using Lanes = LowPrecisionLanes<S>;
      for (; j + Lanes::count <= n; j += Lanes::count) {
        Lanes sum, term;
        sum.load(x + j);
        term.load(v + j);
        sum.v += term.v;
        sum.store(x + j);
      }
    }
    for (; j < n; ++j)
      x[j] = static_cast<S>(static_cast<float>(x[j]) + static_cast<float>(v[j]));
  }

  /// Two neighbours in a word at a time; returns how many it added.
  [[gnu::always_inline]] static index_t add_pairs(const bfloat16* v, bfloat16* x, index_t n) {
    constexpr index_t words = Lanes<float>::count;
    using Floats = typename VectorsOf<words>::Floats;
    using Words = typename VectorsOf<words>::Words;
    // To nearest, ties to even, in the upper half of the word. NaN stays NaN: that of a sum of two
    // numbers whose lower halves are 0 has such a one too, from which nothing is carried.
    const auto round = [](Words& sum) { sum += 0x7FFFU + ((sum >> 16) & 1U); };
    index_t j = 0;
    for (; j + 2 * words <= n; j += 2 * words) {
      Words sums, terms;
      std::memcpy(&sums, x + j, sizeof sums);
      std::memcpy(&terms, v + j, sizeof terms);
      constexpr std::uint32_t upper = 0xFFFF0000U;
      Words low = reinterpret_cast<Words>(reinterpret_cast<Floats>(sums << 16) +
                                          reinterpret_cast<Floats>(terms << 16));
      Words high = reinterpret_cast<Words>(reinterpret_cast<Floats>(sums & upper) +
                                           reinterpret_cast<Floats>(terms & upper));
      round(low);
      round(high);
      sums = (low >> 16) | (high & upper);
      std::memcpy(x + j, &sums, sizeof sums);
    }
    return j;
  }

  template <class S>
  [[gnu::noinline]] static void sums_of_strip(MatrixView<const S> a, float* sums) {
    double total[strip_width] = {};
    for (index_t i = 0; i < a.rows; i += panel_height) {
      const index_t rows = (std::min)(panel_height, a.rows - i);
      const S* x = a.data + i * a.stride;
      index_t j = 0;
      for (; j + panel_width <= a.cols; j += panel_width)
        add_panel(x + j, a.stride, rows, total + j);
      for (; j < a.cols; ++j)
        for (index_t l = 0; l < rows; ++l)
          total[j] += static_cast<double>(static_cast<float>(x[l * a.stride + j])) / panel_height;
    }
    for (index_t j = 0; j < a.cols; ++j)
      sums[j] = static_cast<float>(static_cast<double>(sums[j]) + panel_height * total[j]);
  }

  /// total[0 .. panel_width) += the sums of the columns of at most panel_height rows over
  /// panel_height: of floats, for which the quarters of 16-bit numbers are exact and their sum is
  /// never too large.
  template <class S>
  [[gnu::always_inline]] static void add_panel(const S* x, index_t stride, index_t rows, double* total) {
    using Panel = LowPrecisionLanes<S>;
    constexpr float part = 1.0F / panel_height;
    Panel low, high, sum_low, sum_high;
    for (index_t i = 0; i < rows; ++i, x += stride) {
      low.load(x);
      high.load(x + Panel::count);
      sum_low.v += low.v * part;
      sum_high.v += high.v * part;
    }
    float sums[panel_width];
    std::memcpy(sums, &sum_low.v, sizeof sum_low.v);
    std::memcpy(sums + Panel::count, &sum_high.v, sizeof sum_high.v);
    for (index_t j = 0; j < panel_width; j += Lanes<double>::count) {
      auto sum = Lanes<double>::load(total + j);
      sum.add(load_doubles(sums + j));
      sum.store(total + j);
    }
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
