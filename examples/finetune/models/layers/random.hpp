// Random numbers by position: a value depends on its key and place alone, never on who asks first.
#pragma once

#include <cmath>
#include <cstdint>

#include <sparsegrad/core/config.hpp>
#include <sparsegrad/core/host_device.hpp>

namespace sparsegrad::finetune {

/// Bijective mixing of 64 bits.
SPARSEGRAD_HOST_DEVICE inline std::uint64_t mix_bits(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// Key of the stream named by two numbers.
SPARSEGRAD_HOST_DEVICE inline std::uint64_t stream_key(std::uint64_t key, std::uint64_t number) {
  return mix_bits(key ^ mix_bits(number));
}

/// 32 bits at `column` of the row whose key has these halves; each is a std::uint32_t or a vector of them.
template <class K, class U>
SPARSEGRAD_HOST_DEVICE inline auto bits_at(K key_low, K key_high, U column) {
  auto x = column * 0x9E3779B1U + key_low;
  x ^= x >> 16;
  x *= 0x7FEB352DU;
  x ^= (x >> 15) ^ key_high;
  x *= 0x846CA68BU;
  return x ^ (x >> 16);
}
template <class U>
SPARSEGRAD_HOST_DEVICE inline U bits_at(std::uint64_t row_key, U column) {
  return bits_at(static_cast<std::uint32_t>(row_key), static_cast<std::uint32_t>(row_key >> 32), column);
}

/// Number `i` of the stream `key`, uniform in [0, 1).
inline double uniform_at(std::uint64_t key, std::uint64_t i) {
  return static_cast<double>(stream_key(key, i) >> 11) * 0x1.0p-53;
}

/// Standard normal number `i` of the stream `key` (Box and Muller).
inline double normal_at(std::uint64_t key, std::uint64_t i) {
  const std::uint64_t a = stream_key(key, 2 * i);
  const std::uint64_t b = stream_key(key, 2 * i + 1);
  const double u = (static_cast<double>(a >> 11) + 1.0) * 0x1.0p-53;  // (0, 1]
  const double v = static_cast<double>(b >> 11) * 0x1.0p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
}

}  // namespace sparsegrad::finetune
