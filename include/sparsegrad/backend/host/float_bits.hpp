// Magnitudes of floating-point numbers as integers.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace sparsegrad::backend::host {

/// |x| as a signed integer of the same order: 0 for both zeros, rising through the denormals and the normal
/// numbers to `infinity`; the NaNs lie above. Tests on it hold under any floating-point mode of the compiler.
template <class T>
struct MagnitudeBits {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  using Int = std::conditional_t<std::is_same_v<T, float>, std::int32_t, std::int64_t>;
  static constexpr Int infinity = sizeof(T) == 4 ? Int(0x7f800000) : Int(0x7ff0000000000000);
  static constexpr Int nan = infinity + 1;  ///< key of every NaN

  static Int of(T x) { return std::bit_cast<Int>(x) & static_cast<Int>(~sign); }

  /// As `of`, with all NaNs equal.
  static Int key(T x) {
    const Int bits = of(x);
    return bits < nan ? bits : nan;
  }

 private:
  static constexpr Int sign =
      sizeof(T) == 4 ? static_cast<Int>(0x80000000U) : static_cast<Int>(0x8000000000000000U);
};

}  // namespace sparsegrad::backend::host
