// NaN, Inf and finite numbers told apart by their bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "host_device.hpp"
#include "low_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Layout of a floating-point type (float, double, bfloat16, float16) as an unsigned integer of its
/// size. A number is Inf where its bits without the sign equal `infinity`, NaN where they are
/// above, finite where they are below (IEEE 754-2019, section 3.4).
template <class T>
struct FloatBits {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bfloat16> ||
                    std::is_same_v<T, float16>,
                "FloatBits knows float, double, bfloat16 and float16");
  /// Unsigned integer of T's size.
  using Unsigned = std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                      std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
  /// Bits of the exponent.
  static constexpr int exponent_bits = std::is_same_v<T, double> ? 11 : std::is_same_v<T, float16> ? 5 : 8;
  /// Bits of the mantissa.
  static constexpr int mantissa_bits = static_cast<int>(8 * sizeof(T)) - 1 - exponent_bits;
  /// The sign's bit.
  static constexpr auto sign = static_cast<Unsigned>(Unsigned(1) << (exponent_bits + mantissa_bits));
  /// The bits of +Inf: all of the exponent.
  static constexpr auto infinity =
      static_cast<Unsigned>(((Unsigned(1) << exponent_bits) - 1) << mantissa_bits);

  /// The bits of |x|.
  SPARSEGRAD_HOST_DEVICE static constexpr Unsigned magnitude(const T& x) {
    return static_cast<Unsigned>(__builtin_bit_cast(Unsigned, x) & static_cast<Unsigned>(~sign));
  }
};

/// These hold under -ffast-math too, where a compiler takes every number for finite:
/// std::isfinite(x) is then true and x != x false whatever x is. They take x by reference, because
/// such a compiler may assume it of an argument by value.
template <class T>
SPARSEGRAD_HOST_DEVICE constexpr bool is_finite(const T& x) {
  return FloatBits<T>::magnitude(x) < FloatBits<T>::infinity;
}
template <class T>
SPARSEGRAD_HOST_DEVICE constexpr bool is_inf(const T& x) {
  return FloatBits<T>::magnitude(x) == FloatBits<T>::infinity;
}
template <class T>
SPARSEGRAD_HOST_DEVICE constexpr bool is_nan(const T& x) {
  return FloatBits<T>::magnitude(x) > FloatBits<T>::infinity;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
