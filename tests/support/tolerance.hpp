// How far a computed number may lie from the exact one.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

namespace sparsegrad::test {

/// |x - exact| <= absolute + relative |exact|, both in multiples of the rounding unit of T.
///
/// `terms` numbers of magnitude up to `size` are summed: an error of a few units in each, growing like the
/// square root of the number of terms (errors of mixed sign; the factor leaves room for the worst seen).
template <class T>
struct Tolerance {
  static_assert(std::is_floating_point_v<T>);
  static constexpr double unit = std::numeric_limits<T>::epsilon();

  double absolute = 0;
  double relative = 4 * unit;

  static Tolerance rounding(double units = 4) { return {0, units * unit}; }
  static Tolerance sum(double terms, double size) {
    return {8 * unit * size * std::sqrt(terms + 1), 8 * unit};
  }

  bool holds(long double x, long double exact) const {
    if (std::isnan(exact)) return std::isnan(x);
    if (std::isinf(exact)) return x == exact;
    return std::fabs(static_cast<double>(x - exact)) <=
           absolute + relative * std::fabs(static_cast<double>(exact));
  }
};

}  // namespace sparsegrad::test
