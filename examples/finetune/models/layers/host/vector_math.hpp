// Elementary functions and loops on vectors of registers' width, by the compilers' vector types: neither intrinsics nor
// -ffast-math.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::glue {

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

/// A place in a row that a loop is at: one element, or as many as fill a Pack.
template <class T>
struct ElementAt {
  using value = T;
  index_t j;
  T load(const T* x) const { return x[j]; }
  void store(T* x, T v) const { x[j] = v; }
};
template <class T>
struct PackAt {
  using value = Pack<T>;
  index_t j;
  Pack<T> load(const T* x) const {
    Pack<T> v;
    std::memcpy(&v, x + j, sizeof(v));
    return v;
  }
  void store(T* x, Pack<T> v) const { std::memcpy(x + j, &v, sizeof(v)); }
};

/// Calls f(PackAt) over [0, n), then f(ElementAt) for what is left: f is a generic lambda.
template <class T, class F>
inline void for_packs(index_t n, F f) {
  index_t j = 0;
  for (; j + Simd<T>::width <= n; j += Simd<T>::width)
    f(PackAt<T>{j});
  for (; j < n; ++j)
    f(ElementAt<T>{j});
}

namespace detail {

/// Unsigned integers as wide as a float, or as those of a Pack<float>.
typedef std::uint32_t WordPack __attribute__((vector_size(Simd<float>::bytes)));
template <class V>
using words_of = std::conditional_t<std::is_same_v<V, float>, std::uint32_t, WordPack>;

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

/// Sum of f(0) .. f(n - 1) in an order that depends on n alone: lane l adds f(l), f(l + W), ...; then the lanes
/// in pairs, then the rest.
template <class T, class F>
inline T sum_of(index_t n, F f) {
  constexpr int lanes = 2 * Simd<T>::width;
  T sums[lanes] = {};
  index_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    for (int l = 0; l < lanes; ++l)
      sums[l] += f(j + l);
  }
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l)
      sums[l] += sums[l + half];
  }
  T rest = 0;
  for (; j < n; ++j)
    rest += f(j);
  return sums[0] + rest;
}

/// Largest of n > 0 elements that are not NaN.
template <class T>
inline T max_of(const T* x, index_t n) {
  constexpr int lanes = 2 * Simd<T>::width;
  T best = x[0];
  index_t j = 0;
  if (n >= lanes) {
    T most[lanes];
    for (int l = 0; l < lanes; ++l)
      most[l] = x[l];
    for (j = lanes; j + lanes <= n; j += lanes) {
      for (int l = 0; l < lanes; ++l)
        most[l] = x[j + l] > most[l] ? x[j + l] : most[l];
    }
    for (int l = 0; l < lanes; ++l)
      best = most[l] > best ? most[l] : best;
  }
  for (; j < n; ++j)
    best = x[j] > best ? x[j] : best;
  return best;
}

}  // namespace sparsegrad::glue
