// Tests of floating-point numbers by their bits, which -ffast-math leaves alone.
#pragma once

#include <bit>
#include <cstdint>

namespace sparsegrad {

/// Whether x is neither NaN nor Inf. Unlike std::isfinite also where the compiler may assume that every number is.
constexpr bool is_finite(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0x7f800000U) != 0x7f800000U;
}
constexpr bool is_finite(double x) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000U;
  return (std::bit_cast<std::uint64_t>(x) & exponent) != exponent;
}

}  // namespace sparsegrad
