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

namespace sparsegrad::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// Element types that files may hold. Only some can be read as numbers here; all are checked alike.
enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean, f8_e4m3, f8_e5m2 };

/// Description of an element type.
struct DTypeInfo {
  DType dtype;            ///< which
  std::string_view name;  ///< its name in files
  index_t bytes;          ///< bytes of an element
};

/// All element types.
inline constexpr DTypeInfo dtype_table[] = {
    {DType::f64, "F64", 8},      {DType::f32, "F32", 4},         {DType::f16, "F16", 2},
    {DType::bf16, "BF16", 2},    {DType::i64, "I64", 8},         {DType::i32, "I32", 4},
    {DType::i16, "I16", 2},      {DType::i8, "I8", 1},           {DType::u64, "U64", 8},
    {DType::u32, "U32", 4},      {DType::u16, "U16", 2},         {DType::u8, "U8", 1},
    {DType::boolean, "BOOL", 1}, {DType::f8_e4m3, "F8_E4M3", 1}, {DType::f8_e5m2, "F8_E5M2", 1},
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

}  // namespace sparsegrad::io
