// Element types of safetensors files, and the conversion of the narrow ones.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "../core/config.hpp"

namespace sparsegrad::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// Element types that files may hold. Only some can be read as numbers here; all are checked alike.
enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean, f8_e4m3, f8_e5m2 };

/// Name in files and bytes of an element.
struct DTypeInfo {
  DType dtype;
  std::string_view name;
  index_t bytes;
};

inline constexpr DTypeInfo dtype_table[] = {
    {DType::f64, "F64", 8},      {DType::f32, "F32", 4},         {DType::f16, "F16", 2},
    {DType::bf16, "BF16", 2},    {DType::i64, "I64", 8},         {DType::i32, "I32", 4},
    {DType::i16, "I16", 2},      {DType::i8, "I8", 1},           {DType::u64, "U64", 8},
    {DType::u32, "U32", 4},      {DType::u16, "U16", 2},         {DType::u8, "U8", 1},
    {DType::boolean, "BOOL", 1}, {DType::f8_e4m3, "F8_E4M3", 1}, {DType::f8_e5m2, "F8_E5M2", 1},
};

inline const DTypeInfo& info(DType dtype) {
  for (const DTypeInfo& entry : dtype_table)
    if (entry.dtype == dtype) return entry;
  return dtype_table[0];
}
inline std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& entry : dtype_table)
    if (entry.name == name) return entry.dtype;
  return std::nullopt;
}

/// The DType of a C++ type.
template <class X>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<X, double>) {
    return DType::f64;
  } else if constexpr (std::is_same_v<X, float>) {
    return DType::f32;
  } else if constexpr (std::is_same_v<X, std::int64_t>) {
    return DType::i64;
  } else if constexpr (std::is_same_v<X, std::int32_t>) {
    return DType::i32;
  } else {
    static_assert(std::is_same_v<X, std::uint8_t>, "files hold float, double, int32, int64 and bytes");
    return DType::u8;
  }
}

/// The value of an IEEE 754 half (1 sign, 5 exponent, 10 mantissa bits); exact.
inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits >> 15) << 31;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}
/// The value of a bfloat16: the upper half of a float; exact.
inline float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace sparsegrad::io
