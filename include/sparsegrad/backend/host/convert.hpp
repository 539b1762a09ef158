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

/// The primitives `widen` and `round_to` of the contract (core/backend.hpp): bfloat16 by shifts of
/// 32-bit integers; float16 by the F16C instructions where the compiler may use them.
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

 private:
  static constexpr index_t block = 8;  ///< numbers in a vector
  typedef std::uint16_t Halves __attribute__((vector_size(2 * block)));
  typedef std::uint32_t Words __attribute__((vector_size(4 * block)));

  template <class S>
  [[gnu::noinline]] static void widen_array(const S* from, float* to, index_t n) {
    index_t i = 0;
    if constexpr (std::is_same_v<S, bfloat16>) {
      for (; i + block <= n; i += block) {
        Halves halves;
        std::memcpy(&halves, from + i, sizeof halves);
        const Words words = __builtin_convertvector(halves, Words) << 16;
        std::memcpy(to + i, &words, sizeof words);
      }
    }
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16>) {
      for (; i + 8 <= n; i += 8) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
      }
    }
#endif
    for (; i < n; ++i)
      to[i] = static_cast<float>(from[i]);
  }

  template <class S>
  [[gnu::noinline]] static void round_array(const float* from, S* to, index_t n) {
    index_t i = 0;
    if constexpr (std::is_same_v<S, bfloat16>) {
      for (; i + block <= n; i += block) {
        Words x;
        std::memcpy(&x, from + i, sizeof x);
        const Words nearest = (x + 0x7FFFU + ((x >> 16) & 1U)) >> 16;
        // All bits set where x is NaN. Signed below the sign bit: what SSE and AVX2 can compare.
        typedef std::int32_t Signed __attribute__((vector_size(4 * block)));
        const Words nan = reinterpret_cast<Words>(reinterpret_cast<Signed>(x & 0x7FFFFFFFU) > 0x7F800000);
        const Words rounded = (nan & ((x >> 16) | 0x40U)) | (~nan & nearest);
        const Halves halves = __builtin_convertvector(rounded, Halves);
        std::memcpy(to + i, &halves, sizeof halves);
      }
    }
#if defined(__F16C__)
    if constexpr (std::is_same_v<S, float16>) {
      for (; i + 8 <= n; i += 8) {
        const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
      }
    }
#endif
    for (; i < n; ++i)
      to[i] = static_cast<S>(from[i]);
  }
};

}  // namespace sparsegrad::backend::host
