// Short vectors for the loops that compilers do not keep in registers by themselves.
#pragma once

#include <cstring>

#include "../../core/config.hpp"

namespace sparsegrad::backend::host {

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
  void add_product(T a, const T* p) {
    v += a * load(p).v;
  }
  void add_product(const T* p, const T* q) {
    v += load(p).v * load(q).v;
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
  T x[4][n];
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

/// to[j, i] = from[i, j] of a block of square_edge<T> rows and columns in registers.
template <class T>
inline void transpose_square(const T* from, index_t from_stride, T* to, index_t to_stride) {
#if defined(SPARSEGRAD_HAS_SHUFFLE)
  typedef T Half __attribute__((vector_size(4 * sizeof(T))));
  if constexpr (square_edge<T> == 8) {
    const auto half = [](const T* p) {
      Half x;
      std::memcpy(&x, p, sizeof x);
      return x;
    };
    // Rows i and i + 4 share a register from the load on: what is left are four 4x4 blocks, two at
    // a time.
    for (index_t j = 0; j < 8; j += 4) {
      const auto rows = [&](index_t i) {
        const T* p = from + i * from_stride + j;
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
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + from_stride, sizeof b);
    std::memcpy(&c, from + 2 * from_stride, sizeof c);
    std::memcpy(&d, from + 3 * from_stride, sizeof d);
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

}  // namespace sparsegrad::backend::host
