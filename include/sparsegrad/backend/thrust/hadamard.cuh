// Randomised block Hadamard transforms of a matrix's rows or columns, in place.
#pragma once

#include <cmath>

#include "../../core/backend.hpp"
#include "portable.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// The vectors of a matrix: element p of vector v.
template <class T>
struct Vectors {
  T* data;
  index_t between;  ///< from vector to vector
  index_t along;    ///< from element to element
  SPARSEGRAD_HOST_DEVICE T& operator()(index_t v, index_t p) const { return data[v * between + p * along]; }
};

/// Numbers e in [0, vectors * parts) as (vector, part); neighbours in memory go to neighbouring
/// threads.
template <class F>
struct ByVector {
  F f;
  index_t vectors, parts;
  bool vectors_fastest;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    vectors_fastest ? f(e % vectors, e / vectors) : f(e / parts, e % parts);
  }
};

/// x[p] *= factor signs[p]
template <class T>
struct Sign {
  Vectors<T> x;
  const T* signs;
  T factor;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t v, index_t p) const { x(v, p) *= factor * signs[p]; }
};

/// `levels` levels of butterflies at once, from distance h on: 2^levels elements that stand h
/// apart.
template <class T, int levels>
struct Butterflies {
  static constexpr int points = 1 << levels;
  Vectors<T> x;
  index_t h;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t v, index_t part) const {
    const index_t first = part / h * h * points + part % h;
    T y[static_cast<std::size_t>(points)];
    for (int i = 0; i < points; ++i)
      y[i] = x(v, first + i * h);
    for (int half = 1; half < points; half *= 2) {
      for (int i = 0; i < points; ++i) {
        if ((i & half) != 0) continue;
        const T a = y[i];
        const T b = y[i + half];
        y[i] = a + b;
        y[i + half] = a - b;
      }
    }
    for (int i = 0; i < points; ++i)
      x(v, first + i * h) = y[i];
  }
};

/// x[c b + r] -= 2/m sum_c x[c b + r]
template <class T>
struct Reflect {
  Vectors<T> x;
  index_t m, b;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t v, index_t r) const {
    T sum = 0;
    for (index_t c = 0; c < m; ++c)
      sum += x(v, c * b + r);
    sum *= T(2) / static_cast<T>(m);
    for (index_t c = 0; c < m; ++c)
      x(v, c * b + r) -= sum;
  }
};

/// The contract's hadamard: H = (I - 2/m 1 1^T) (x) H_b diag(signs), n = m b.
template <class System>
struct HadamardTransform {
  using Context = typename System::Context;

  template <class T>
  static void run(Context& ctx, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    const bool rows = side == TransformSide::rows;
    const index_t n = rows ? a.cols : a.rows;
    const index_t vectors = rows ? a.rows : a.cols;
    if (n == 0 || vectors == 0) return;
    const Vectors<T> x{a.data, rows ? a.stride : 1, rows ? 1 : a.stride};
    const auto for_each = [&](index_t parts, const auto& f) {
      using F = std::decay_t<decltype(f)>;
      for_each_index<System>(ctx, vectors * parts, ByVector<F>{f, vectors, parts, !rows});
    };
    const index_t b = n & -n;
    const index_t m = n / b;
    const Sign<T> sign{x, signs, static_cast<T>(1 / std::sqrt(static_cast<double>(b)))};
    if (!inverse) for_each(n, sign);
    index_t h = 1;
    for (; h * 8 <= b; h *= 8)
      for_each(n / 8, Butterflies<T, 3>{x, h});
    if (h * 4 == b) for_each(n / 4, Butterflies<T, 2>{x, h});
    if (h * 2 == b) for_each(n / 2, Butterflies<T, 1>{x, h});
    if (m > 1) for_each(b, Reflect<T>{x, m, b});
    if (inverse) for_each(n, sign);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
