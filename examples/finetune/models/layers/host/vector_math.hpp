// Elementary functions on vectors of registers' width: neither intrinsics nor -ffast-math.
#pragma once

#include <bit>
#include <cmath>

#include "packs.hpp"

namespace sparsegrad::finetune {

namespace detail {

template <class V>
inline V exp_of_floats(V x) {
  const V low = V{} - 87.0F;
  const V high = V{} + 88.0F;
  x = x < low ? low : x;
  x = x > high ? high : x;
  constexpr float shift = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const V shifted = x * 1.44269504F + shift;
  const V n = shifted - shift;
  const V r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  V q = r * 1.3814447e-3F + 8.3687804e-3F;
  q = q * r + 4.1668394e-2F;
  q = q * r + 1.6666520e-1F;
  q = q * r + 4.9999993e-1F;
  const V mantissa = q * (r * r) + r + 1.0F;
  const auto power = (std::bit_cast<words_of<V>>(shifted) << 23) + 0x3F800000U;
  return mantissa * std::bit_cast<V>(power);
}

/// erfc(z) e^(z^2) for z >= 0 as a polynomial in t = 1 / (1 + 0.35 z), fitted by least maximum of
/// |error| e^(-z^2), which is 5.3e-9 before rounding.
template <class V>
inline V scaled_erfc(V z) {
  const V t = 1.0F / (1.0F + 0.35F * z);
  V p = t * -0.197394736F + 0.769597007F;
  p = p * t - 0.675243928F;
  p = p * t + 0.679020864F;
  p = p * t - 0.00532214469F;
  p = p * t + 0.234880323F;
  p = p * t + 0.194462616F;
  return p * t;
}

template <class V>
inline V absolute(V x) {
  return std::bit_cast<V>(std::bit_cast<words_of<V>>(x) & 0x7FFFFFFFU);
}

/// One lane after the other, for types without a vector form.
template <class F>
inline Pack<double> by_lane(Pack<double> x, F f) {
  for (int l = 0; l < Simd<double>::width; ++l)
    x[l] = f(x[l]);
  return x;
}

}  // namespace detail

/// e^x. float: relative error below 2e-7; x is clamped to [-87, 88], so that the result is normal and finite.
inline float exp_of(float x) {
  return detail::exp_of_floats(x);
}
inline Pack<float> exp_of(Pack<float> x) {
  return detail::exp_of_floats(x);
}
inline double exp_of(double x) {
  return std::exp(x);
}
inline Pack<double> exp_of(Pack<double> x) {
  return detail::by_lane(x, [](double v) { return std::exp(v); });
}

template <class V>
struct GeluPair {
  V value;
  V derivative;
};

namespace detail {
template <class V>
inline GeluPair<V> gelu_of_floats(V x) {
  const V bell = exp_of(-0.5F * x * x);
  const V tail = 0.5F * bell * scaled_erfc(absolute(x) * 0.707106781F);
  const V zero = V{};
  const V other = 1.0F - tail;
  const V phi = x < zero ? tail : other;
  return {x * phi, phi + x * bell * 0.398942280F};
}
}  // namespace detail

/// gelu(x) = x Phi(x) and gelu'(x) = Phi(x) + x phi(x), the normal distribution's Phi and phi. float: absolute
/// errors below 2e-7 (1 + |x|).
inline GeluPair<float> gelu_of(float x) {
  return detail::gelu_of_floats(x);
}
inline GeluPair<Pack<float>> gelu_of(Pack<float> x) {
  return detail::gelu_of_floats(x);
}
inline GeluPair<double> gelu_of(double x) {
  const double phi = 0.5 * std::erfc(-x * 0.70710678118654752440);
  return {x * phi, phi + x * std::exp(-0.5 * x * x) * 0.39894228040143267794};
}
inline GeluPair<Pack<double>> gelu_of(Pack<double> x) {
  return {detail::by_lane(x, [](double v) { return gelu_of(v).value; }),
          detail::by_lane(x, [](double v) { return gelu_of(v).derivative; })};
}

namespace detail {

template <class T, int count>
struct VectorOf {
  typedef T type __attribute__((vector_size(count * static_cast<int>(sizeof(T)))));
};

/// Folds the halves of v upon each other by f until one number is left.
template <class T, int count, class V, class F>
inline T folded(V v, F f) {
  if constexpr (count == 2) {
    return f(T(v[0]), T(v[1]));
  } else {
    using Half = typename VectorOf<T, count / 2>::type;
    Half halves[2];
    std::memcpy(halves, &v, sizeof v);
    return folded<T, count / 2>(f(halves[0], halves[1]), f);
  }
}

}  // namespace detail

/// Sum of f(at) over the places of [0, n), in an order that depends on n alone: lane l of two packs side by side adds
/// elements l, l + 2W, ..., the first one those of a single last pack too; then the lanes in pairs, then the rest.
template <class T, class F>
inline T sum_of(index_t n, F f) {
  constexpr int width = Simd<T>::width;
  Pack<T> low = {}, high = {};
  index_t j = 0;
  for (; j + 2 * width <= n; j += 2 * width) {
    low += f(PackAt<T>{j});
    high += f(PackAt<T>{j + width});
  }
  if (j + width <= n) {
    low += f(PackAt<T>{j});
    j += width;
  }
  low += high;
  T rest = 0;
  for (; j < n; ++j)
    rest += f(ElementAt<T>{j});
  return detail::folded<T, width>(low, [](auto a, auto b) { return a + b; }) + rest;
}

/// Largest of n > 0 elements that are not NaN.
template <class T>
inline T max_of(const T* x, index_t n) {
  constexpr int lanes = Simd<T>::width;
  T best = x[0];
  index_t j = 0;
  if (n >= lanes) {
    Pack<T> most = load_pack<T>(x);
    for (j = lanes; j + lanes <= n; j += lanes) {
      const Pack<T> next = load_pack<T>(x + j);
      most = next > most ? next : most;
    }
    best = detail::folded<T, lanes>(most, [](auto a, auto b) { return b > a ? b : a; });
  }
  for (; j < n; ++j)
    best = x[j] > best ? x[j] : best;
  return best;
}

}  // namespace sparsegrad::finetune
