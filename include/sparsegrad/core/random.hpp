// Random numbers that are a function of (seed, position): the same on every platform, in any order.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Output function of SplitMix64 (Steele, Lea, Flood 2014).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// Number `i` of the sequence that `seed` names.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t i) {
  return mix64(mix64(seed) + (i + 1) * 0x9E3779B97F4A7C15ULL);
}

/// Uniform in the open interval (0, 1).
constexpr double random_uniform(std::uint64_t seed, std::uint64_t i) {
  return (static_cast<double>(random_bits(seed, i) >> 11) + 0.5) * 0x1p-53;
}

/// Standard normal (Box and Muller). Same to the rounding of the platform's log and cos.
inline double random_normal(std::uint64_t seed, std::uint64_t i) {
  const double radius = std::sqrt(-2 * std::log(random_uniform(seed, 2 * i)));
  return radius * std::cos(2 * std::numbers::pi * random_uniform(seed, 2 * i + 1));
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
