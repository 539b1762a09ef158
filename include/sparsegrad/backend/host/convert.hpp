// Conversions between float and the 16-bit types.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../../core/low_precision.hpp"
#include "../../core/view.hpp"
#include "context.hpp"
#include "elementwise.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace sparsegrad::backend::host {

/// Eight numbers of S = bfloat16 or float16 as floats, in one register or two: loaded exactly,
/// stored to the nearest S. bfloat16 by shifts of 32-bit integers; float16 by the F16C instructions
/// where the compiler may use them, by integers otherwise.
template <class S>
struct LowPrecisionLanes {
  static_assert(is_low_precision<S>);
  static constexpr index_t count = 8;
  typedef float Vector __attribute__((vector_size(4 * count)));

  Vector v = {};

  /// p[0 .. count).
  [[gnu::always_inline]] void load(const S* p) {
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16>) {
      const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
      std::memcpy(&v, &x, sizeof v);
      return;
    }
#endif
    Halves halves;
    std::memcpy(&halves, p, sizeof halves);
    Words words = __builtin_convertvector(halves, Words);
    if constexpr (std::is_same_v<S, bfloat16>) {
      words <<= 16;
    } else {
      widen_half(words);
    }
    v = reinterpret_cast<Vector>(words);
  }

  /// p[0 .. count) = this, to the nearest, ties to even; NaN stays NaN.
  [[gnu::always_inline]] void store(S* p) const {
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16>) {
      __m256 x;
      std::memcpy(&x, &v, sizeof v);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
    Words x = reinterpret_cast<Words>(v);
    if constexpr (std::is_same_v<S, bfloat16>) {
      const Words nearest = (x + 0x7FFFU + ((x >> 16) & 1U)) >> 16;
      x = chosen(above(x & 0x7FFFFFFFU, 0x7F800000), (x >> 16) | 0x40U, nearest);
    } else {
      round_half(x);
    }
    const Halves halves = __builtin_convertvector(x, Halves);
    std::memcpy(p, &halves, sizeof halves);
  }

 private:
  typedef std::uint16_t Halves __attribute__((vector_size(2 * count)));
  typedef std::uint32_t Words __attribute__((vector_size(4 * count)));

  /// All bits set where x > y. Signed below the sign bit: what SSE and AVX2 can compare.
  [[gnu::always_inline]] static Words above(const Words& x, std::int32_t y) {
    typedef std::int32_t Signed __attribute__((vector_size(4 * count)));
    return reinterpret_cast<Words>(reinterpret_cast<Signed>(x) > y);
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
    const Words small = reinterpret_cast<Words>(reinterpret_cast<Vector>(magnitude | 0x38800000U) - 0x1p-14F);
    x = sign | chosen(normal, magnitude + (112U << 23) + (special & (112U << 23)), small);
  }

  /// The bits of floats become those of the nearest halves (detail::float16_bits).
  [[gnu::always_inline]] static void round_half(Words& x) {
    const Words sign = (x >> 16) & 0x8000U;
    const Words magnitude = x & 0x7FFFFFFFU;
    const Words small = reinterpret_cast<Words>(reinterpret_cast<Vector>(magnitude) + 0.5F) - 0x3F000000U;
    const Words normal = ((magnitude + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13) - (112U << 10);
    const Words nan = above(magnitude, 0x7F800000) & (0x200U | ((magnitude >> 13) & 0x1FFU));
    x = chosen(above(magnitude, 0x387FFFFF), normal, small);
    x = sign | chosen(above(magnitude, 0x477FEFFF), 0x7C00U | nan, x);
  }
};

/// The primitives `widen` and `round_to` of the contract (core/backend.hpp).
struct Convert {
  template <class S>
  static void widen(HostContext& ctx, MatrixView<const S> a, MatrixView<float> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              widen_array(a.row(i) + begin, b.row(i) + begin, end - begin);
            });
  }

  template <class S>
  static void round_to(HostContext& ctx, MatrixView<const float> a, MatrixView<S> b) {
    on_rows(ctx, b.rows, b.cols, a.contiguous() && b.contiguous(),
            [&](index_t i, index_t begin, index_t end) {
              round_array(a.row(i) + begin, b.row(i) + begin, end - begin);
            });
  }

  /// to[i] = from[i], serial.
  template <class S>
  [[gnu::noinline]] static void widen_array(const S* from, float* to, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t i = 0;
    for (; i + Lanes::count <= n; i += Lanes::count) {
      Lanes x;
      x.load(from + i);
      std::memcpy(to + i, &x.v, sizeof x.v);
    }
    for (; i < n; ++i)
      to[i] = static_cast<float>(from[i]);
  }

  /// to[i] = from[i], to the nearest, serial.
  template <class S>
  [[gnu::noinline]] static void round_array(const float* from, S* to, index_t n) {
    using Lanes = LowPrecisionLanes<S>;
    index_t i = 0;
    for (; i + Lanes::count <= n; i += Lanes::count) {
      Lanes x;
      std::memcpy(&x.v, from + i, sizeof x.v);
      x.store(to + i);
    }
    for (; i < n; ++i)
      to[i] = static_cast<S>(from[i]);
  }
};

}  // namespace sparsegrad::backend::host
