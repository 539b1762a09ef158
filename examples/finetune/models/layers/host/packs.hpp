// Vectors of registers' width, by the compilers' vector types, and loops over the rows of activations with them. Rows may
// be stored in 16 bits: they are converted on the way to and from registers.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <sparsegrad/core/low_precision.hpp>

namespace sparsegrad::finetune {

/// Vector of T as wide as the registers that the code is compiled for.
template <class T>
struct Simd {
#if defined(__AVX512F__)
  static constexpr int bytes = 64;
#elif defined(__AVX__)
  static constexpr int bytes = 32;
#else
  static constexpr int bytes = 16;
#endif
  static constexpr int width = bytes / static_cast<int>(sizeof(T));
  typedef T type __attribute__((vector_size(bytes)));

  static constexpr index_t round_up(index_t n) {
    return (n + width - 1) / width * width;
  }
};

template <class T>
using Pack = typename Simd<T>::type;

/// 0, 1, 2, ...: a constant, as compilers make such a vector one lane after the other.
template <class T>
inline Pack<T> lane_numbers() {
  static constexpr auto constant = [] {
    std::array<T, static_cast<std::size_t>(Simd<T>::width)> numbers{};
    for (std::size_t l = 0; l < numbers.size(); ++l)
      numbers[l] = static_cast<T>(l);
    return numbers;
  }();
  return std::bit_cast<Pack<T>>(constant);
}

namespace detail {

/// Integers as wide as a float, or as those of a Pack<float>; and 16 bits of each.
typedef std::uint32_t WordPack __attribute__((vector_size(Simd<float>::bytes)));
typedef std::int32_t SignedPack __attribute__((vector_size(Simd<float>::bytes)));
typedef std::uint16_t ShortPack __attribute__((vector_size(Simd<float>::bytes / 2)));
template <class V>
using words_of = std::conditional_t<std::is_same_v<V, float>, std::uint32_t, WordPack>;

/// Whether a < b for words below 2^31, as what SSE and AVX2 can compare.
inline SignedPack less(WordPack a, WordPack b) {
  return std::bit_cast<SignedPack>(a) < std::bit_cast<SignedPack>(b);
}
inline WordPack choose(SignedPack condition, WordPack yes, WordPack no) {
  return condition ? yes : no;
}

/// The same numbers in words. g++ 12 converts such vectors a half at a time, in five instructions.
inline WordPack words_of_shorts(ShortPack x) {
#if defined(__AVX512F__)
  return std::bit_cast<WordPack>(_mm512_cvtepu16_epi32(std::bit_cast<__m256i>(x)));
#elif defined(__AVX2__)
  return std::bit_cast<WordPack>(_mm256_cvtepu16_epi32(std::bit_cast<__m128i>(x)));
#else
  return __builtin_convertvector(x, WordPack);
#endif
}

/// The values of the low 16 bits of each word as numbers of T, exactly.
template <class T>
inline Pack<float> values_of(WordPack bits) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return std::bit_cast<Pack<float>>(bits << 16);
  } else {
    const WordPack magnitude = bits & 0x7FFFU;
    const WordPack normal = (magnitude << 13) + (112U << 23);
    const WordPack nonfinite = (magnitude << 13) | 0x7F800000U;
    const Pack<float> tiny =
        __builtin_convertvector(std::bit_cast<SignedPack>(magnitude), Pack<float>) * 0x1p-24F;
    WordPack value = choose(less(magnitude, WordPack{} + 0x400U), std::bit_cast<WordPack>(tiny), normal);
    value = choose(less(WordPack{} + 0x7BFFU, magnitude), nonfinite, value);
    return std::bit_cast<Pack<float>>(value | ((bits >> 15) << 31));
  }
}

/// The numbers of T nearest to x, ties to even, in the low 16 bits of each word: what T(x) has (core/low_precision.hpp).
template <class T>
inline WordPack rounded_bits(Pack<float> x) {
  const WordPack bits = std::bit_cast<WordPack>(x);
  const WordPack magnitude = bits & 0x7FFFFFFFU;
  const SignedPack nan = x != x;
  if constexpr (std::is_same_v<T, bfloat16>) {
    const WordPack nearest = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    return choose(nan, (bits >> 16) | 0x40U, nearest);
  } else {
    const WordPack normal = ((magnitude + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13) - (112U << 10);
    const WordPack tiny = std::bit_cast<WordPack>(std::bit_cast<Pack<float>>(magnitude) + 0.5F) - 0x3F000000U;
    WordPack half = choose(less(magnitude, WordPack{} + 0x38800000U), tiny, normal);
    half = choose(less(magnitude, WordPack{} + 0x477FF000U), half, WordPack{} + 0x7C00U);
    half = choose(nan, 0x7E00U | ((magnitude >> 13) & 0x1FFU), half);
    return half | ((bits >> 16) & 0x8000U);
  }
}

}  // namespace detail

/// As many numbers at x as fill a Pack, in compute_t<T>.
template <class T>
inline Pack<compute_t<T>> load_pack(const T* x) {
  if constexpr (is_low_precision<T>) {
    detail::ShortPack bits;
    std::memcpy(&bits, x, sizeof(bits));
    return detail::values_of<T>(detail::words_of_shorts(bits));
  } else {
    Pack<T> v;
    std::memcpy(&v, x, sizeof(v));
    return v;
  }
}
/// Rounds to T.
template <class T>
inline void store_pack(T* x, Pack<compute_t<T>> v) {
  if constexpr (is_low_precision<T>) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
    if constexpr (std::is_same_v<T, bfloat16>) {
      // The processor's own conversion rounds alike, but takes subnormal numbers for zeros.
      const auto wide = std::bit_cast<__m512>(v);
      constexpr int subnormal = 0x20;
      if (_mm512_fpclass_ps_mask(wide, subnormal) == 0) {
        const __m256bh rounded = _mm512_cvtneps_pbh(wide);
        std::memcpy(x, &rounded, sizeof rounded);
        return;
      }
    }
#endif
    const auto bits = __builtin_convertvector(detail::rounded_bits<T>(v), detail::ShortPack);
    std::memcpy(x, &bits, sizeof(bits));
  } else {
    std::memcpy(x, &v, sizeof(v));
  }
}

/// A place in a row that a loop is at: one element, or as many as fill a Pack. Values are in C, whatever rows are stored
/// in.
template <class C>
struct ElementAt {
  using value = C;
  index_t j;
  template <class T>
  C load(const T* x) const {
    return static_cast<C>(x[j]);
  }
  template <class T>
  void store(T* x, C v) const {
    x[j] = static_cast<T>(v);
  }
};
template <class C>
struct PackAt {
  using value = Pack<C>;
  index_t j;
  template <class T>
  Pack<C> load(const T* x) const {
    return load_pack<T>(x + j);
  }
  template <class T>
  void store(T* x, Pack<C> v) const {
    store_pack<T>(x + j, v);
  }
};

/// Calls f(PackAt) over [0, n), then f(ElementAt) for what is left: f is a generic lambda.
template <class C, class F>
inline void for_packs(index_t n, F f) {
  index_t j = 0;
  for (; j + Simd<C>::width <= n; j += Simd<C>::width)
    f(PackAt<C>{j});
  for (; j < n; ++j)
    f(ElementAt<C>{j});
}

}  // namespace sparsegrad::finetune
