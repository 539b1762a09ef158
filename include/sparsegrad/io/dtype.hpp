// Element types of safetensors files.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "../core/config.hpp"
#include "../core/low_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// Element types that files may hold. Only some can be read as numbers here; all are checked alike.
/// Those of fewer than 8 bits are packed, and their arrays end at a whole byte.
enum class DType {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  c64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2,
  f4,
};

/// Description of an element type.
struct DTypeInfo {
  DType dtype;            ///< which
  std::string_view name;  ///< its name in files
  index_t bits;           ///< bits of an element
};

/// All element types: those that the safetensors library knew in version 0.8.
inline constexpr DTypeInfo dtype_table[] = {
    {DType::f64, "F64", 64},
    {DType::f32, "F32", 32},
    {DType::f16, "F16", 16},
    {DType::bf16, "BF16", 16},
    {DType::i64, "I64", 64},
    {DType::i32, "I32", 32},
    {DType::i16, "I16", 16},
    {DType::i8, "I8", 8},
    {DType::u64, "U64", 64},
    {DType::u32, "U32", 32},
    {DType::u16, "U16", 16},
    {DType::u8, "U8", 8},
    {DType::boolean, "BOOL", 8},
    {DType::c64, "C64", 64},
    {DType::f8_e4m3, "F8_E4M3", 8},
    {DType::f8_e5m2, "F8_E5M2", 8},
    {DType::f8_e8m0, "F8_E8M0", 8},
    {DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    {DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    {DType::f6_e2m3, "F6_E2M3", 6},
    {DType::f6_e3m2, "F6_E3M2", 6},
    {DType::f4, "F4", 4},
};

/// The description of an element type.
inline const DTypeInfo& info(DType dtype) {
  for (const DTypeInfo& entry : dtype_table)
    if (entry.dtype == dtype) return entry;
  return dtype_table[0];
}
/// The element type of a name in files; nothing when there is none.
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
  } else if constexpr (std::is_same_v<X, float16>) {
    return DType::f16;
  } else if constexpr (std::is_same_v<X, bfloat16>) {
    return DType::bf16;
  } else {
    static_assert(std::is_same_v<X, std::uint8_t>,
                  "files hold float, double, float16, bfloat16, int32, int64 and bytes");
    return DType::u8;
  }
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
