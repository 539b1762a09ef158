#pragma once

#include <cmath>

#include "fast_math.cuh"
#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// gelu(x) = x Phi(x) and gelu'(x) = Phi(x) + x phi(x), with the normal distribution's Phi and phi.
template <class C>
struct Gelu {
  C value, slope;
};

/// Gelu at x for results that are rounded to T: by erfc, or, for a T of 16 bits, from one e^(-x^2 / 2) by
/// Phi(-|x|) = e^(-x^2 / 2) t q(t) with t = 1 / (1 + 0.3 |x|) and a polynomial q of least largest relative error:
/// 7.3e-6: a sixtieth of float16's rounding. Beyond |x| = 13.2, where Phi(-|x|) < 2^-126, it is 0.
template <class T>
SPARSEGRAD_HOST_DEVICE Gelu<compute_t<T>> gelu_for(compute_t<T> x) {
  using C = compute_t<T>;
  constexpr C density = C(0.39894228040143267794);  // 1 / sqrt(2 pi)
  if constexpr (is_low_precision<T>) {
    const C bell = power_of_two<T>(x * x * -0.721347520F);
    const C t = reciprocal<T>(1.0F + 0.3F * std::fabs(x));
    C q = t * -0.0776746199F + 0.217773825F;
    q = q * t - 0.018934954F;
    q = q * t + 0.145268917F;
    q = q * t + 0.113470674F;
    q = q * t + 0.120099798F;
    const C tail = bell * (t * q);
    const C phi = x < 0 ? tail : 1.0F - tail;
    return {x * phi, phi + x * bell * density};
  } else {
    const C phi = C(0.5) * std::erfc(x * C(-0.70710678118654752440));
    return {x * phi, phi + x * std::exp(C(-0.5) * x * x) * density};
  }
}

/// out = gelu(h + bias), h <- gelu'(h + bias), N entries of a row.
template <class T, int N>
struct GeluEntries {
  using C = compute_t<T>;
  const C* bias;
  Array2<T> h;
  Array2<T> out;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    const index_t j = pack * N;
    auto x = load_pack<T, N>(&h(i, j));
    const auto b = load_pack<C, N>(bias + j);
    Pack<C, N> slope;
    for (int e = 0; e < N; ++e) {
      const Gelu<C> g = gelu_for<T>(x.x[e] + b.x[e]);
      x.x[e] = g.value;
      slope.x[e] = g.slope;
    }
    store_pack<T, N>(&out(i, j), x);
    store_pack<T, N>(&h(i, j), slope);
  }
};

/// g *= factor, N entries of a row. Returns the products before they are rounded, so that a pass can sum them too.
template <class T, int N>
struct MultiplyEntries {
  Array2<const T> factor;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE Pack<compute_t<T>, N> operator()(index_t i, index_t pack) const {
    auto x = load_pack<T, N>(&g(i, pack * N));
    const auto f = load_pack<T, N>(&factor(i, pack * N));
    for (int e = 0; e < N; ++e)
      x.x[e] *= f.x[e];
    store_pack<T, N>(&g(i, pack * N), x);
    return x;
  }
};

template <class T>
struct TanhEntry {
  const compute_t<T>* bias;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    x(i, j) = static_cast<T>(std::tanh(x(i, j) + bias[j]));
  }
};

template <class T>
struct TanhBackwardEntry {
  Array2<const T> y;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    g(i, j) = static_cast<T>(g(i, j) * (compute_t<T>(1) - y(i, j) * y(i, j)));
  }
};

/// q + bias and v + bias of a product q, k, v, N of these 2 hidden columns at a time. The keys' bias adds the same
/// to all scores of a query, which softmax does not see, nor does any gradient.
template <class T, int N>
struct QkvBiasEntries {
  using C = compute_t<T>;
  const C* bias;
  index_t hidden;
  Array2<T> qkv;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    const index_t j = pack * N < hidden ? pack * N : pack * N + hidden;
    auto x = load_pack<T, N>(&qkv(i, j));
    const auto b = load_pack<C, N>(bias + j);
    for (int e = 0; e < N; ++e)
      x.x[e] += b.x[e];
    store_pack<T, N>(&qkv(i, j), x);
  }
};

}  // namespace sparsegrad::finetune::device
