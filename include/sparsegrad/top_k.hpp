// Selection: from a core gradient to the sparse gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/backend.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad {

/// What a selection did.
struct SelectReport {
  index_t requested = 0;  ///< entries asked for
  index_t kept = 0;
  bool clamped = false;  ///< more were asked for than the core has
  bool skipped = false;  ///< NaN or Inf under NonFinite::skip: no gradient, leave the step out
};

namespace detail {

/// Applies the policy for NaN and Inf to the kept values. They rank above every finite number, so a core that holds
/// one shows it among its k largest, and the core need not be read again.
template <class T, Backend B>
void check_finite(typename B::Context& ctx, SparseGradient<T, B>& s, NonFinite policy, SelectReport& report) {
  if (policy == NonFinite::propagate || s.count() == 0) return;
  const index_t bad = B::template first_nonfinite<T>(ctx, MatrixView<T>(s.values(), 1, s.count()));
  if (bad < 0) return;
  if (policy == NonFinite::skip) {
    s.clear();
    report.kept = 0;
    report.skipped = true;
    return;
  }
  index_t position = bad;
  if (!s.dense()) {
    stored_index_t index = 0;
    B::template download<stored_index_t>(ctx, s.indices() + bad, &index, 1);
    position = index;
  }
  T value{};
  B::template download<T>(ctx, s.values() + bad, &value, 1);
  s.clear();
  throw NonFiniteError("the core gradient of " + shape_text(s.rows(), s.cols()) + " holds " +
                       (std::isnan(value) ? "NaN" : "Inf") + " at row " +
                       std::to_string(position / s.cols()) + ", column " +
                       std::to_string(position % s.cols()) + "; expected finite numbers");
}

}  // namespace detail

namespace detail {
/// The core as selectors read it: of the shape of s, contiguous. Throws ShapeError.
template <class T, Backend B>
void require_core(ConstMatrixView<T> core, const SparseGradient<T, B>& s) {
  require_shape("core", core.rows, core.cols, s.rows(), s.cols(), "rows x cols of the sparse gradient");
  if (!core.contiguous()) {
    throw ShapeError("the core's row stride is " + std::to_string(core.stride) +
                     ", expected a contiguous core of " + std::to_string(core.cols) + " columns");
  }
}
}  // namespace detail

/// Selector: S = top_k(|G~|), exactly k entries by largest absolute value, ties by lowest position, -0 equal to 0,
/// |NaN| above Inf (SparseGrad, Chekalina et al. 2024).
/// The same numbers give the same support on every backend and with any number of threads. With k >= rows * cols the
/// whole core is kept, dense.
struct TopK {
  index_t k = 0;

  /// k = ceil(density * size), at least 1; a product that is whole but for its rounding counts as whole (0.07 of 100 is
  /// 7). Throws ValueError unless 0 < density <= 1.
  static TopK fraction(double density, index_t size) {
    if (!(density > 0 && density <= 1)) {
      throw ValueError("density is " + std::to_string(density) + ", expected 0 < density <= 1");
    }
    const double entries = density * static_cast<double>(size);
    constexpr double rounding = 4 * std::numeric_limits<double>::epsilon();
    return {std::max<index_t>(1, static_cast<index_t>(std::ceil(entries * (1 - rounding))))};
  }

  /// Writes the support and values of `core` [rows, cols], contiguous, to `s`. Throws ShapeError; ValueError when k < 0
  /// or min(k, size) exceeds s.capacity(); NonFiniteError under NonFinite::raise, `s` then being empty.
  template <class T, Backend B>
  SelectReport operator()(typename B::Context& ctx, MatrixView<T> core, SparseGradient<T, B>& s,
                          NonFinite policy = NonFinite::raise) const {
    detail::require_core(core, s);
    if (k < 0) throw ValueError("k is " + std::to_string(k) + ", expected k >= 0");
    SelectReport report{k, std::min(k, core.size()), k > core.size(), false};
    s.set_count(report.kept);
    if (s.dense()) {
      B::template copy<T>(ctx, core, s.matrix());
    } else {
      B::template top_k<T>(ctx, core.data, core.size(), report.kept, s.indices(), s.values());
    }
    detail::check_finite<T, B>(ctx, s, policy, report);
    return report;
  }
};

/// Selector: S(i, j) = G~(i, j) at the positions of a support [rows, cols] that the caller chose before and keeps alive,
/// read from a finished core. (To spare the dense core altogether, give the support to the layer:
/// SparseGradLinear::set_support.)
template <class T, Backend B = DefaultBackend>
struct FixedSupport {
  const SparseGradient<T, B>* support = nullptr;

  /// Throws ValueError without a support or when `s` has no room for it, ShapeError, NonFiniteError as TopK.
  SelectReport operator()(typename B::Context& ctx, MatrixView<T> core, SparseGradient<T, B>& s,
                          NonFinite policy = NonFinite::raise) const {
    if (support == nullptr) throw ValueError("FixedSupport: the support is null, expected one to read");
    detail::require_core(core, s);
    s.copy_support(ctx, *support);
    SelectReport report{s.count(), s.count(), false, false};
    if (s.dense()) {
      B::template copy<T>(ctx, core, s.matrix());
    } else {
      B::template gather<T>(ctx, core.data, s.indices(), s.count(), s.values());
    }
    detail::check_finite<T, B>(ctx, s, policy, report);
    return report;
  }
};

}  // namespace sparsegrad
