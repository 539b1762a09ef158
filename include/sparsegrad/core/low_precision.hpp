// bfloat16 and float16: 16-bit floating-point types to store in. Arithmetic on them is float's.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "config.hpp"
#include "host_device.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

SPARSEGRAD_HOST_DEVICE inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
SPARSEGRAD_HOST_DEVICE inline float float_of(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// The nearest bfloat16, ties to even; NaN stays NaN with its sign.
SPARSEGRAD_HOST_DEVICE inline std::uint16_t bfloat16_bits(float x) {
  const std::uint32_t bits = bits_of(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// The nearest half, ties to even; from 65520 on Inf; NaN stays NaN with its sign.
SPARSEGRAD_HOST_DEVICE inline std::uint16_t float16_bits(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x1FFU));
  }
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < 0x38800000U) {
    // Below 2^-14: the last bit of a number in [0.5, 1) is 2^-24, as a subnormal half's; the sum
    // rounds.
    return static_cast<std::uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5F) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

/// The value of a half (1 sign, 5 exponent, 10 mantissa bits); exact.
SPARSEGRAD_HOST_DEVICE inline float float16_value(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half >> 15) << 31;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0x1FU) return float_of(sign | 0x7F800000U | (mantissa << 13));
  if (exponent != 0) return float_of(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace detail

/// Brain floating point: the upper half of a float, 8 exponent and 7 mantissa bits, epsilon 2^-7.
/// The bits are those of __nv_bfloat16 and torch.bfloat16, on every backend.
struct bfloat16 {
  std::uint16_t bits;  ///< sign, exponent, mantissa

  /// Not initialised.
  bfloat16() = default;
  /// Rounds to nearest, ties to even.
  SPARSEGRAD_HOST_DEVICE explicit bfloat16(float x) : bits(detail::bfloat16_bits(x)) {}
  /// The same number as a float, exactly.
  // NOLINTNEXTLINE(google-explicit-constructor): exact
  SPARSEGRAD_HOST_DEVICE operator float() const {
    return detail::float_of(static_cast<std::uint32_t>(bits) << 16);
  }
  /// The number of these bits.
  SPARSEGRAD_HOST_DEVICE static bfloat16 from_bits(std::uint16_t bits) {
    bfloat16 x;
    x.bits = bits;
    return x;
  }
};

/// IEEE 754 half precision: 5 exponent and 10 mantissa bits, epsilon 2^-10, at most 65504.
/// Subnormal numbers go down to 2^-24. The bits are those of __half and torch.float16, on every
/// backend.
struct float16 {
  std::uint16_t bits;  ///< sign, exponent, mantissa

  /// Not initialised.
  float16() = default;
  /// Rounds to nearest, ties to even.
  SPARSEGRAD_HOST_DEVICE explicit float16(float x) : bits(detail::float16_bits(x)) {}
  /// The same number as a float, exactly.
  // NOLINTNEXTLINE(google-explicit-constructor): exact
  SPARSEGRAD_HOST_DEVICE operator float() const { return detail::float16_value(bits); }
  /// The number of these bits.
  SPARSEGRAD_HOST_DEVICE static float16 from_bits(std::uint16_t bits) {
    float16 x;
    x.bits = bits;
    return x;
  }
};

static_assert(sizeof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16> &&
              std::is_trivially_default_constructible_v<bfloat16>);
static_assert(sizeof(float16) == 2 && std::is_trivially_copyable_v<float16> &&
              std::is_trivially_default_constructible_v<float16>);

namespace detail {
template <>
struct ComputeType<bfloat16> {
  using type = float;
};
template <>
struct ComputeType<float16> {
  using type = float;
};
}  // namespace detail

/// Whether T is a type for storage alone, whose sums, bases and updates are in compute_t<T>.
template <class T>
inline constexpr bool is_low_precision = !std::is_same_v<T, compute_t<T>>;

/// Whether weights, activations and gradients can be stored in T.
template <class T>
inline constexpr bool is_parameter_type = std::is_same_v<T, float> || std::is_same_v<T, double> ||
                                          std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

/// Whether sums, bases, cores and moments can be of T: compute_t of such a type.
template <class T>
inline constexpr bool is_compute_type = std::is_same_v<T, float> || std::is_same_v<T, double>;

/// Machine epsilon of a low-precision type T: rounding changes a normal number by at most half of
/// it, relatively.
template <class T>
inline constexpr double low_precision_epsilon = 0;
template <>
inline constexpr double low_precision_epsilon<bfloat16> = 0x1p-7;
template <>
inline constexpr double low_precision_epsilon<float16> = 0x1p-10;

}  // namespace sparsegrad::SPARSEGRAD_ABI
