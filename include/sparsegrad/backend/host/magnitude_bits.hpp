// Magnitudes of floating-point numbers as signed integers, for loops that compilers vectorise.
#pragma once

#include <bit>
#include <type_traits>

#include "../../core/float_bits.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// |x| as a signed integer of the same order: 0 for both zeros, rising through the denormals and the normal
/// numbers to `infinity`; the NaNs lie above. Tests on it hold under any floating-point mode of the
/// compiler.
template <class T>
struct MagnitudeBits {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  using Int = std::make_signed_t<typename FloatBits<T>::Unsigned>;
  static constexpr Int infinity = static_cast<Int>(FloatBits<T>::infinity);
  static constexpr Int nan = infinity + 1;  ///< key of every NaN

  static Int of(const T& x) { return std::bit_cast<Int>(x) & static_cast<Int>(~FloatBits<T>::sign); }

  /// As `of`, with all NaNs equal.
  static Int key(const T& x) {
    const Int bits = of(x);
    return bits < nan ? bits : nan;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
