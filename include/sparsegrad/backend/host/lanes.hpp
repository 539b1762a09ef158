// Short vectors for the loops that compilers do not keep in registers by themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../../core/config.hpp"
#include "../../core/low_precision.hpp"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// A register's worth of numbers, by the vector extension of g++ and clang++: the compiler maps it
/// to what the target has.
template <class T>
struct Lanes {
#if defined(__AVX__)
  static constexpr index_t bytes = 32;
#else
  static constexpr index_t bytes = 16;
#endif
  static constexpr index_t count = bytes / static_cast<index_t>(sizeof(T));
  typedef T Vector __attribute__((vector_size(bytes)));

  Vector v = {};

  static Lanes load(const T* p) {
    Lanes x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  void store(T* p) const {
    std::memcpy(p, &v, sizeof v);
  }
  void add(const Lanes& x) {
    v += x.v;
  }
  void add_product(T a, const T* p) {
    v += a * load(p).v;
  }
  void add_product(const T* p, const T* q) {
    v += load(p).v * load(q).v;
  }
};

/// Vectors of n numbers of 32 and of 16 bits.
template <index_t n>
struct VectorsOf;
template <>
struct VectorsOf<4> {
  typedef float Floats __attribute__((vector_size(16)));
  typedef std::uint32_t Words __attribute__((vector_size(16)));
  typedef std::int32_t Signed __attribute__((vector_size(16)));
  typedef std::uint16_t Halves __attribute__((vector_size(8)));
};
template <>
struct VectorsOf<8> {
  typedef float Floats __attribute__((vector_size(32)));
  typedef std::uint32_t Words __attribute__((vector_size(32)));
  typedef std::int32_t Signed __attribute__((vector_size(32)));
  typedef std::uint16_t Halves __attribute__((vector_size(16)));
};

/// The bits of x as a To. A copy and no cast: nvcc knows none between vectors and intrinsics' types.
template <class To, class From>
[[gnu::always_inline]] inline To same_bits(const From& x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

/// Floats in a register that are S = bfloat16 or float16 in memory: loaded exactly, stored to the
/// nearest S. bfloat16 by shifts of 32-bit integers; float16 by the F16C instructions where the
/// compiler may use them, by integers otherwise.
template <class S, index_t width = Lanes<float>::count>
struct LowPrecisionLanes {
  static_assert(is_low_precision<S> && (width == 4 || width == 8));
  static constexpr index_t count = width;
  using Vector = typename VectorsOf<width>::Floats;

  Vector v = {};

  /// p[0 .. count).
  [[gnu::always_inline]] void load(const S* p) {
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16>) {
      if constexpr (width == 8) {
        v = same_bits<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
      } else {
        v = same_bits<Vector>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
      }
      return;
    }
#endif
    Words words;
#if defined(__AVX2__)
    if constexpr (width == 8) {
      words = same_bits<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    } else {
      words = same_bits<Words>(_mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
#else
    Halves halves;
    std::memcpy(&halves, p, sizeof halves);
    words = __builtin_convertvector(halves, Words);
#endif
    if constexpr (std::is_same_v<S, bfloat16>) {
      words <<= 16;
    } else {
      widen_half(words);
    }
    v = same_bits<Vector>(words);
  }

  /// p[0 .. count) = this, to the nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] void store(S* p) const {
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16> && width == 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                       _mm256_cvtps_ph(same_bits<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
    Words x = same_bits<Words>(v);
    if constexpr (std::is_same_v<S, bfloat16>) {
      const Words nearest = (x + 0x7FFFU + ((x >> 16) & 1U)) >> 16;
      x = chosen(above(x & 0x7FFFFFFFU, 0x7F800000), (x >> 16) | 0x40U, nearest);
    } else {
      round_half(x);
    }
#if defined(__AVX2__)
    if constexpr (width == 8) {
      const auto words = same_bits<__m256i>(x);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
      return;
    }
#endif
    const Halves halves = __builtin_convertvector(x, Halves);
    std::memcpy(p, &halves, sizeof halves);
  }

 private:
  using Words = typename VectorsOf<width>::Words;
  using Signed = typename VectorsOf<width>::Signed;
  using Halves = typename VectorsOf<width>::Halves;

  /// All bits set where x > y. Signed below the sign bit: what SSE and AVX2 can compare.
  [[gnu::always_inline]] static Words above(const Words& x, std::int32_t y) {
    return same_bits<Words>(same_bits<Signed>(x) > y);
  }
  [[gnu::always_inline]] static Words chosen(const Words& where, const Words& x, const Words& y) {
    return (where & x) | (~where & y);
  }

  /// The bits of halves become those of the same floats (detail::float16_value).
  [[gnu::always_inline]] static void widen_half(Words& x) {
    const Words sign = (x & 0x8000U) << 16;
    const Words magnitude = (x & 0x7FFFU) << 13;
    const Words special = above(magnitude, 0x0F7FFFFF);  // Inf and NaN
    const Words normal = above(magnitude, 0x007FFFFF);
    // A subnormal half's digits behind the point of 2^-14, which is taken away again.
    const Words subnormal = same_bits<Words>(same_bits<Vector>(magnitude | 0x38800000U) - 0x1p-14F);
    x = sign | chosen(normal, magnitude + (112U << 23) + (special & (112U << 23)), subnormal);
  }

  /// The bits of floats become those of the nearest halves (detail::float16_bits).
  [[gnu::always_inline]] static void round_half(Words& x) {
    const Words sign = (x >> 16) & 0x8000U;
    const Words magnitude = x & 0x7FFFFFFFU;
    const Words subnormal = same_bits<Words>(same_bits<Vector>(magnitude) + 0.5F) - 0x3F000000U;
    const Words normal = ((magnitude + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13) - (112U << 10);
    const Words nan = above(magnitude, 0x7F800000) & (0x200U | ((magnitude >> 13) & 0x1FFU));
    x = chosen(above(magnitude, 0x387FFFFF), normal, subnormal);
    x = sign | chosen(above(magnitude, 0x477FEFFF), 0x7C00U | nan, x);
  }
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SPARSEGRAD_HAS_SHUFFLE 1
#endif
#endif

/// sums[0 .. 4) = the sums of the lanes of a, b, c and d, each pairwise from neighbours on.
template <class T>
inline void sums_of(const Lanes<T>& a, const Lanes<T>& b, const Lanes<T>& c, const Lanes<T>& d, T* sums) {
  constexpr index_t n = Lanes<T>::count;
#if defined(SPARSEGRAD_HAS_SHUFFLE)
  if constexpr (n == 8) {
    const auto ab = __builtin_shufflevector(a.v, b.v, 0, 8, 2, 10, 4, 12, 6, 14) +
                    __builtin_shufflevector(a.v, b.v, 1, 9, 3, 11, 5, 13, 7, 15);
    const auto cd = __builtin_shufflevector(c.v, d.v, 0, 8, 2, 10, 4, 12, 6, 14) +
                    __builtin_shufflevector(c.v, d.v, 1, 9, 3, 11, 5, 13, 7, 15);
    const auto all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                     __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    const auto four =
        __builtin_shufflevector(all, all, 0, 1, 2, 3) + __builtin_shufflevector(all, all, 4, 5, 6, 7);
    std::memcpy(sums, &four, sizeof four);
    return;
  } else if constexpr (n == 4) {
    const auto ab =
        __builtin_shufflevector(a.v, b.v, 0, 4, 2, 6) + __builtin_shufflevector(a.v, b.v, 1, 5, 3, 7);
    const auto cd =
        __builtin_shufflevector(c.v, d.v, 0, 4, 2, 6) + __builtin_shufflevector(c.v, d.v, 1, 5, 3, 7);
    const auto four =
        __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    std::memcpy(sums, &four, sizeof four);
    return;
  }
#endif
  T x[4][static_cast<std::size_t>(n)];
  a.store(x[0]);
  b.store(x[1]);
  c.store(x[2]);
  d.store(x[3]);
  for (index_t l = 0; l < 4; ++l) {
    for (index_t step = 1; step < n; step *= 2)
      for (index_t i = 0; i < n; i += 2 * step)
        x[l][i] += x[l][i + step];
    sums[l] = x[l][0];
  }
}

/// Edge of the blocks that transpose_square takes.
#if defined(SPARSEGRAD_HAS_SHUFFLE)
template <class T>
inline constexpr index_t square_edge = Lanes<T>::count == 8 ? 8 : 4;
#else
template <class T>
inline constexpr index_t square_edge = 4;
#endif

/// x = from[0 .. 4), as floats where they have 16 bits.
template <class From, class Four>
[[gnu::always_inline]] inline void load_four(const From* from, Four& x) {
  if constexpr (is_low_precision<From>) {
    LowPrecisionLanes<From, 4> low;
    low.load(from);
    std::memcpy(&x, &low.v, sizeof x);
  } else {
    std::memcpy(&x, from, sizeof x);
  }
}

/// to[j, i] = from[i, j] of a block of square_edge<T> rows and columns in registers. `From`: T, or
/// a 16-bit type where T is float.
template <class From, class T>
inline void transpose_square(const From* from, index_t from_stride, T* to, index_t to_stride) {
#if defined(SPARSEGRAD_HAS_SHUFFLE)
  typedef T Half __attribute__((vector_size(4 * sizeof(T))));
  if constexpr (square_edge<T> == 8) {
    const auto half = [](const From* p) {
      Half x;
      load_four(p, x);
      return x;
    };
    // Rows i and i + 4 share a register from the load on: what is left are four 4x4 blocks, two at
    // a time.
    for (index_t j = 0; j < 8; j += 4) {
      const auto rows = [&](index_t i) {
        const From* p = from + i * from_stride + j;
        return __builtin_shufflevector(half(p), half(p + 4 * from_stride), 0, 1, 2, 3, 4, 5, 6, 7);
      };
      const auto a = rows(0), b = rows(1), c = rows(2), d = rows(3);
      const auto ab_low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
      const auto ab_high = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
      const auto cd_low = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13);
      const auto cd_high = __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
      const auto put = [&](index_t column, auto x) {
        std::memcpy(to + (j + column) * to_stride, &x, sizeof x);
      };
      put(0, __builtin_shufflevector(ab_low, cd_low, 0, 1, 8, 9, 4, 5, 12, 13));
      put(1, __builtin_shufflevector(ab_low, cd_low, 2, 3, 10, 11, 6, 7, 14, 15));
      put(2, __builtin_shufflevector(ab_high, cd_high, 0, 1, 8, 9, 4, 5, 12, 13));
      put(3, __builtin_shufflevector(ab_high, cd_high, 2, 3, 10, 11, 6, 7, 14, 15));
    }
  } else {
    // By reference alone: without AVX four doubles are no register that could be handed over.
    Half a, b, c, d;
    load_four(from, a);
    load_four(from + from_stride, b);
    load_four(from + 2 * from_stride, c);
    load_four(from + 3 * from_stride, d);
    const Half ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Half ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Half cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Half cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const auto put = [&](index_t column, const Half& x) {
      std::memcpy(to + column * to_stride, &x, sizeof x);
    };
    put(0, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    put(1, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    put(2, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    put(3, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
  }
#else
  for (index_t j = 0; j < 4; ++j)
    for (index_t i = 0; i < 4; ++i)
      to[j * to_stride + i] = from[i * from_stride + j];
#endif
}

#undef SPARSEGRAD_HAS_SHUFFLE

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
