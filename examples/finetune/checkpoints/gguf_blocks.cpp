#include "checkpoints/gguf_blocks.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/core/low_precision.hpp>

namespace sparsegrad::finetune {
namespace {

constexpr index_t small = 32;   // elements of a block of the older types
constexpr index_t super = 256;  // of the K types

// Sorted by number, which ggml never gives to another type.
constexpr std::array<GgufType, 34> types{{{0, "F32", 1, 4, true},
                                          {1, "F16", 1, 2, true},
                                          {2, "Q4_0", small, 18, true},
                                          {3, "Q4_1", small, 20, true},
                                          {6, "Q5_0", small, 22, true},
                                          {7, "Q5_1", small, 24, true},
                                          {8, "Q8_0", small, 34, true},
                                          {9, "Q8_1", small, 40, false},
                                          {10, "Q2_K", super, 84, false},
                                          {11, "Q3_K", super, 110, false},
                                          {12, "Q4_K", super, 144, true},
                                          {13, "Q5_K", super, 176, true},
                                          {14, "Q6_K", super, 210, true},
                                          {15, "Q8_K", super, 292, false},
                                          {16, "IQ2_XXS", super, 66, false},
                                          {17, "IQ2_XS", super, 74, false},
                                          {18, "IQ3_XXS", super, 98, false},
                                          {19, "IQ1_S", super, 50, false},
                                          {20, "IQ4_NL", small, 18, false},
                                          {21, "IQ3_S", super, 110, false},
                                          {22, "IQ2_S", super, 82, false},
                                          {23, "IQ4_XS", super, 136, false},
                                          {24, "I8", 1, 1, false},
                                          {25, "I16", 1, 2, false},
                                          {26, "I32", 1, 4, false},
                                          {27, "I64", 1, 8, false},
                                          {28, "F64", 1, 8, false},
                                          {29, "IQ1_M", super, 56, false},
                                          {30, "BF16", 1, 2, true},
                                          {34, "TQ1_0", super, 54, false},
                                          {35, "TQ2_0", super, 66, false},
                                          {39, "MXFP4", small, 17, false},
                                          {40, "NVFP4", 64, 36, false},
                                          {41, "Q1_0", 128, 18, false}}};

using Byte = std::uint8_t;

std::uint16_t half_bits(const Byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
float half(const Byte* p) {
#if defined(__F16C__)
  return _cvtsh_ss(half_bits(p));
#else
  return float16::from_bits(half_bits(p));
#endif
}

// A product and a sum that stay two operations where a compiler would fuse those of one expression.
float times_plus(float d, int q, float m) {
  const float product = d * static_cast<float>(q);
  return product + m;
}
float times_minus(float d, int q, float m) {
  const float product = d * static_cast<float>(q);
  return product - m;
}

// Each reads one block at `b` and writes its values to `v`. In blocks of 32 the lower halves of the bytes are
// the first 16 elements, the upper halves the last 16. Loops write one stretch each, and bytes are
// restricted, since they may else be those of `v`: compilers take such loops in vectors.

// d, 16 bytes
void q4_0(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b);
  for (int i = 0; i < 16; ++i)
    v[i] = d * static_cast<float>((b[2 + i] & 15) - 8);
  for (int i = 0; i < 16; ++i)
    v[i + 16] = d * static_cast<float>((b[2 + i] >> 4) - 8);
}

// d, minimum, 16 bytes
void q4_1(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b);
  const float m = half(b + 2);
  for (int i = 0; i < 16; ++i)
    v[i] = times_plus(d, b[4 + i] & 15, m);
  for (int i = 0; i < 16; ++i)
    v[i + 16] = times_plus(d, b[4 + i] >> 4, m);
}

/// The fifth bits of 32 elements at `b`, as a number; that of element i has the place i.
std::uint32_t fifth_bits(const Byte* b) {
  return b[0] | std::uint32_t{b[1]} << 8 | std::uint32_t{b[2]} << 16 | std::uint32_t{b[3]} << 24;
}
/// The fifth bit of element i in its place in the element.
int fifth(std::uint32_t bits, int i) {
  return (bits & (1U << i)) != 0 ? 16 : 0;
}

// d, 32 fifth bits, 16 bytes
void q5_0(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b);
  const std::uint32_t bits = fifth_bits(b + 2);
  for (int i = 0; i < 16; ++i)
    v[i] = d * static_cast<float>(((b[6 + i] & 15) | fifth(bits, i)) - 16);
  for (int i = 0; i < 16; ++i)
    v[i + 16] = d * static_cast<float>(((b[6 + i] >> 4) | fifth(bits, i + 16)) - 16);
}

// d, minimum, 32 fifth bits, 16 bytes
void q5_1(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b);
  const float m = half(b + 2);
  const std::uint32_t bits = fifth_bits(b + 4);
  for (int i = 0; i < 16; ++i)
    v[i] = times_plus(d, (b[8 + i] & 15) | fifth(bits, i), m);
  for (int i = 0; i < 16; ++i)
    v[i + 16] = times_plus(d, (b[8 + i] >> 4) | fifth(bits, i + 16), m);
}

// d, 32 signed bytes
void q8_0(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i)
    v[i] = static_cast<float>(static_cast<std::int8_t>(b[2 + i])) * d;
}

/// Scale and minimum, 6 bits each, of the 8 groups of 32 of a Q4_K or Q5_K block, packed in 12 bytes.
void scale_and_minimum(const Byte* packed, int group, int& scale, int& minimum) {
  if (group < 4) {
    scale = packed[group] & 63;
    minimum = packed[group + 4] & 63;
  } else {
    scale = (packed[group + 4] & 15) | (packed[group - 4] >> 2 & 48);
    minimum = (packed[group + 4] >> 4) | (packed[group] >> 2 & 48);
  }
}

/// Groups of 32 of a Q4_K or Q5_K block, a pair of groups to 32 bytes of `low`: `high(i, group)` is the fifth bit.
template <class High>
void k_groups(const Byte* __restrict b, const Byte* __restrict low, float* __restrict v, High high) {
  const float d = half(b);
  const float least = half(b + 2);
  for (int group = 0; group < 8; ++group) {
    int scale = 0;
    int minimum = 0;
    scale_and_minimum(b + 4, group, scale, minimum);
    const float ds = d * static_cast<float>(scale);
    const float dm = least * static_cast<float>(minimum);
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int q = (low[group / 2 * 32 + i] >> shift & 15) | high(i, group);
      v[group * 32 + i] = times_minus(ds, q, dm);
    }
  }
}

// d, d of the minima, 12 bytes of scales, 128 bytes
void q4_k(const Byte* b, float* v) {
  k_groups(b, b + 16, v, [](int, int) { return 0; });
}

// d, d of the minima, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes
void q5_k(const Byte* b, float* v) {
  k_groups(b, b + 48, v, [b](int i, int group) { return (b[16 + i] >> group & 1) << 4; });
}

// 128 bytes of the lower 4 bits, 64 of the upper 2, 16 signed scales, d
void q6_k(const Byte* __restrict b, float* __restrict v) {
  const float d = half(b + 208);
  for (int part = 0; part < 16;
       ++part) {  // of 16 elements and one scale; each half block has 4 groups of 2 of them
    const Byte* low = b + part / 8 * 64 + part % 4 * 16;
    const Byte* high = b + 128 + part / 8 * 32 + part % 2 * 16;
    const int group = part / 2 % 4;
    const float ds = d * static_cast<float>(static_cast<std::int8_t>(b[192 + part]));
    for (int i = 0; i < 16; ++i) {
      const int q = (low[i] >> (group / 2 * 4) & 15) | (high[i] >> (group * 2) & 3) << 4;
      v[part * 16 + i] = ds * static_cast<float>(q - 32);
    }
  }
}

// Elements that have no blocks. A copy by the C library takes half as long again for what comes from memory.
void f32(const Byte* __restrict b, std::span<float> values) {
  float* __restrict v = values.data();
  for (std::size_t i = 0; i < values.size(); ++i)
    std::memcpy(v + i, b + sizeof(float) * i, sizeof(float));
}
void f16(const Byte* __restrict b, std::span<float> values) {
  std::size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= values.size(); i += 8)
    _mm256_storeu_ps(values.data() + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 2 * i))));
#endif
  for (; i < values.size(); ++i)
    values[i] = half(b + 2 * i);
}
void bf16(const Byte* __restrict b, std::span<float> values) {
  float* __restrict v = values.data();
  for (std::size_t i = 0; i < values.size(); ++i)
    v[i] = bfloat16::from_bits(half_bits(b + 2 * i));
}

void require_sizes(const GgufType& type, std::size_t bytes, std::size_t values) {
  const auto block = static_cast<std::size_t>(type.block);
  if (values % block == 0 && bytes == values / block * static_cast<std::size_t>(type.block_bytes)) return;
  throw ShapeError(std::to_string(bytes) + " bytes of " + std::string(type.name) + " for " +
                   std::to_string(values) + " values, expected blocks of " + std::to_string(type.block) +
                   " values in " + std::to_string(type.block_bytes) + " bytes");
}

/// Writes x in 16 bits, where those have room for it.
template <class Half>
void store_half(float x, Byte* b) {
  const Half half(x);
  if (is_finite(x) && !is_finite(static_cast<float>(half))) {
    throw ValueError("the value " + std::to_string(x) + " has no room in " +
                     (std::is_same_v<Half, float16> ? "F16, whose largest is 65504; BF16 and float have it"
                                                    : "BF16; float has it"));
  }
  std::memcpy(b, &half.bits, sizeof half.bits);
}

// The scale is applied before it is rounded to 16 bits, as ggml does it.
void to_q8_0(const float* v, Byte* b) {
  float most = 0;
  for (int i = 0; i < small; ++i)
    most = std::max(most, std::abs(v[i]));
  const float d = most / 127.0F;
  if (is_finite(d) && !is_finite(static_cast<float>(float16(d)))) {
    const float x = *std::find_if(v, v + small, [&](float y) { return std::abs(y) == most; });
    throw ValueError("the value " + std::to_string(x) +
                     " has no room in Q8_0, whose largest is 8319008; BF16 and float have it");
  }
  const float one_by_d = 1.0F / d;
  const float inverse = is_finite(one_by_d) ? one_by_d : 0.0F;  // of zeros, and of what F16 takes for zeros
  store_half<float16>(d, b);
  for (int i = 0; i < small; ++i)
    b[2 + i] = static_cast<Byte>(static_cast<std::int8_t>(std::round(v[i] * inverse)));
}

template <class Block>
void each(const GgufType& type, const Byte* b, std::span<float> values, Block block) {
  for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(type.block)) {
    block(b, values.data() + at);
    b += type.block_bytes;
  }
}

}  // namespace

std::span<const GgufType> gguf_types() {
  return types;
}

const GgufType* find_gguf_type(std::uint32_t id) {
  const auto found = std::find_if(types.begin(), types.end(), [id](const GgufType& t) { return t.id == id; });
  return found == types.end() ? nullptr : &*found;
}

const GgufType& gguf_type(std::string_view name) {
  const auto found =
      std::find_if(types.begin(), types.end(), [name](const GgufType& t) { return t.name == name; });
  if (found == types.end()) throw ValueError("ggml has no type " + std::string(name));
  return *found;
}

std::string readable_gguf_types() {
  std::string text;
  for (const GgufType& type : types)
    if (type.readable) text += (text.empty() ? "" : ", ") + std::string(type.name);
  return text;
}

void quantize_blocks(const GgufType& type, std::span<const float> values, std::span<std::byte> blocks) {
  require_sizes(type, blocks.size(), values.size());
  auto* b = reinterpret_cast<Byte*>(blocks.data());
  const auto each = [&](auto block) {
    for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(type.block)) {
      block(values.data() + at, b);
      b += type.block_bytes;
    }
  };
  switch (type.id) {
    case 0:
      return each([](const float* v, Byte* to) { std::memcpy(to, v, sizeof *v); });
    case 1:
      return each([](const float* v, Byte* to) { store_half<float16>(*v, to); });
    case 8:
      return each(to_q8_0);
    case 30:
      return each([](const float* v, Byte* to) { store_half<bfloat16>(*v, to); });
    default:
      throw ValueError("values of type " + std::string(type.name) +
                       " cannot be written, expected one of F32, F16, BF16, Q8_0");
  }
}

void dequantize_blocks(const GgufType& type, std::span<const std::byte> blocks, std::span<float> values) {
  require_sizes(type, blocks.size(), values.size());
  const auto* b = reinterpret_cast<const Byte*>(blocks.data());
  switch (type.readable ? type.id : ~std::uint32_t{0}) {
    case 0:
      return f32(b, values);
    case 1:
      return f16(b, values);
    case 2:
      return each(type, b, values, q4_0);
    case 3:
      return each(type, b, values, q4_1);
    case 6:
      return each(type, b, values, q5_0);
    case 7:
      return each(type, b, values, q5_1);
    case 8:
      return each(type, b, values, q8_0);
    case 12:
      return each(type, b, values, q4_k);
    case 13:
      return each(type, b, values, q5_k);
    case 14:
      return each(type, b, values, q6_k);
    case 30:
      return bf16(b, values);
    default:
      throw ValueError("values of type " + std::string(type.name) + " cannot be read, expected one of " +
                       readable_gguf_types());
  }
}

}  // namespace sparsegrad::finetune
