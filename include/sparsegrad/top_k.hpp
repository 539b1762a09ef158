// TopK: the selector of the paper, the k largest entries of a core gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/backend.hpp"
#include "core/number.hpp"
#include "selector.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Selector: S = top_k(|G~|), exactly k entries by largest absolute value, ties by lowest position,
/// -0 equal to 0,
/// |NaN| above Inf (SparseGrad, Chekalina et al. 2024).
/// The same numbers give the same support on every backend and with any number of threads. With k
/// >= rows * cols the whole core is kept, dense.
struct TopK {
  /// It writes rising positions (see Selector).
  static constexpr bool rising_positions = true;
  /// How many entries to select.
  index_t k = 0;

  /// k = ceil(density * size), at least 1; a product that is whole but for its rounding counts as
  /// whole (0.07 of 100 is 7). Throws ValueError unless 0 < density <= 1.
  static TopK fraction(double density, index_t size) {
    if (!is_finite(density) || density <= 0 || density > 1) {
      throw ValueError("density is " + number_text(density) + ", expected 0 < density <= 1");
    }
    const double entries = density * static_cast<double>(size);
    constexpr double rounding = 4 * std::numeric_limits<double>::epsilon();
    return {std::max<index_t>(1, static_cast<index_t>(std::ceil(entries * (1 - rounding))))};
  }

  /// Writes the support and values of `core` [rows, cols], contiguous, to `s`. Throws ShapeError;
  /// ValueError when k < 0 or min(k, size) exceeds s.capacity(). NaN and Inf are kept like any
  /// number: select_entries has the policy for them.
  template <class T, Backend B>
  SelectReport operator()(typename B::Context& ctx, ConstMatrixView<T> core, SparseGradient<T, B>& s) const {
    detail::require_core<T, B>(core, s);
    if (k < 0) throw ValueError("k is " + std::to_string(k) + ", expected k >= 0");
    SelectReport report{k, (std::min)(k, core.size()), k > core.size(), false};
    s.set_count(report.kept);
    if (s.dense()) {
      B::template copy<T>(ctx, core, s.matrix());
    } else {
      B::template top_k<T>(ctx, core.data, core.size(), report.kept, s.indices(), s.values());
    }
    return report;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
