// Loops over arrays in short vectors. Compilers vectorise such loops by themselves at -O3 alone; at
// -O2, which most programs are built with, they would take three to six times as long.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "magnitude_bits.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// Calls f(j) for the places j of the vectors in [0, n); returns where they end.
template <class T, class F>
[[gnu::always_inline]] inline index_t over_lanes(index_t n, F&& f) {
  constexpr index_t count = Lanes<T>::count;
  index_t j = 0;
  // Two at a time: the processor begins the second before the first has ended.
  for (; j + 2 * count <= n; j += 2 * count) {
    f(j);
    f(j + count);
  }
  for (; j + count <= n; j += count)
    f(j);
  return j;
}

/// As many numbers of From as a vector of doubles has, as doubles.
template <class From>
[[gnu::always_inline]] inline Lanes<double> load_doubles(const From* x) {
  if constexpr (std::is_same_v<From, double>) {
    return Lanes<double>::load(x);
  } else {
    static_assert(std::is_same_v<From, float>);
    Lanes<double> wide;
#if defined(__AVX__)
    wide.v = same_bits<Lanes<double>::Vector>(_mm256_cvtps_pd(_mm_loadu_ps(x)));
#else
    typedef float Narrow __attribute__((vector_size(Lanes<double>::bytes / 2)));
    Narrow narrow;
    std::memcpy(&narrow, x, sizeof narrow);
    wide.v = __builtin_convertvector(narrow, Lanes<double>::Vector);
#endif
    return wide;
  }
}

/// x[i] *= alpha.
template <class T>
void scale_array(T alpha, T* x, index_t n) {
  index_t j = over_lanes<T>(n, [=](index_t at) {
    auto part = Lanes<T>::load(x + at);
    part.v *= alpha;
    part.store(x + at);
  });
  for (; j < n; ++j)
    x[j] *= alpha;
}

/// y[i] *= alpha x[i], the right side first.
template <class T>
void multiply_array(T alpha, const T* x, T* y, index_t n) {
  index_t j = over_lanes<T>(n, [=](index_t at) {
    auto product = Lanes<T>::load(y + at);
    const auto factor = Lanes<T>::load(x + at);
    product.v *= alpha * factor.v;
    product.store(y + at);
  });
  for (; j < n; ++j)
    y[j] *= alpha * x[j];
}

/// y[i] += alpha x[i]; Sum is T, or double.
template <class T, class Sum>
void add_array(Sum alpha, const T* x, Sum* y, index_t n) {
  index_t j = over_lanes<Sum>(n, [=](index_t at) {
    auto sum = Lanes<Sum>::load(y + at);
    if constexpr (std::is_same_v<T, Sum>) {
      sum.add_product(alpha, x + at);
    } else {
      const Lanes<double> term = load_doubles(x + at);
      sum.v += alpha * term.v;
    }
    sum.store(y + at);
  });
  for (; j < n; ++j)
    y[j] += alpha * static_cast<Sum>(x[j]);
}

/// total[j] += x[j] + x[j + stride] + ..., one row after the other, for j in [0, cols).
template <class T>
void add_rows(const T* x, index_t stride, index_t rows, index_t cols, double* total) {
  constexpr index_t count = Lanes<double>::count;
  index_t j = 0;
  for (; j + 4 * count <= cols; j += 4 * count) {
    auto a = Lanes<double>::load(total + j), b = Lanes<double>::load(total + j + count);
    auto c = Lanes<double>::load(total + j + 2 * count), d = Lanes<double>::load(total + j + 3 * count);
    const T* row = x + j;
    for (index_t i = 0; i < rows; ++i, row += stride) {
      a.add(load_doubles(row));
      b.add(load_doubles(row + count));
      c.add(load_doubles(row + 2 * count));
      d.add(load_doubles(row + 3 * count));
    }
    a.store(total + j);
    b.store(total + j + count);
    c.store(total + j + 2 * count);
    d.store(total + j + 3 * count);
  }
  for (; j < cols; ++j)
    for (index_t i = 0; i < rows; ++i)
      total[j] += static_cast<double>(x[i * stride + j]);
}

/// Whether x[0 .. n) has neither NaN nor Inf, by the bits.
template <class T>
bool all_finite(const T* x, index_t n) {
  using Bits = MagnitudeBits<T>;
  using Int = typename Bits::Int;
  using Vector = typename Lanes<Int>::Vector;
  // The largest magnitude's distance below Inf: negative for NaN and Inf.
  Vector any = {};
  constexpr Int magnitude = static_cast<Int>(~FloatBits<T>::sign);
  index_t j = over_lanes<Int>(n, [&](index_t at) {
    Vector bits;
    std::memcpy(&bits, x + at, sizeof bits);
    any |= (Bits::infinity - 1) - (bits & magnitude);
  });
  Int parts[Lanes<Int>::count];
  std::memcpy(parts, &any, sizeof any);
  Int all = 0;
  for (const Int part : parts)
    all |= part;
  for (; j < n; ++j)
    all |= (Bits::infinity - 1) - Bits::of(x[j]);
  return all >= 0;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
