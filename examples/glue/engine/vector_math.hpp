// Elementary functions and reductions in a form that compilers turn into vector code without -ffast-math.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

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

  static constexpr index_t round_up(index_t n) { return (n + width - 1) / width * width; }
};

/// e^x. float: relative error below 2e-7; x is clamped to [-87, 88], so that the result is normal and finite.
inline float exp_of(float x) {
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  constexpr float shift = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504F + shift;
  const float n = shifted - shift;
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  float q = 1.3814447e-3F;
  q = q * r + 8.3687804e-3F;
  q = q * r + 4.1668394e-2F;
  q = q * r + 1.6666520e-1F;
  q = q * r + 4.9999993e-1F;
  const float mantissa = q * (r * r) + r + 1.0F;
  const auto power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3F800000U);
  return mantissa * power;
}
inline double exp_of(double x) { return std::exp(x); }

/// erfc(z) e^(z^2) for z >= 0 as a polynomial in t = 1 / (1 + 0.35 z), fitted by least maximum of
/// |error| e^(-z^2), which is 5.3e-9 before rounding.
inline float scaled_erfc(float z) {
  const float t = 1.0F / (1.0F + 0.35F * z);
  float p = -0.197394736F;
  p = p * t + 0.769597007F;
  p = p * t - 0.675243928F;
  p = p * t + 0.679020864F;
  p = p * t - 0.00532214469F;
  p = p * t + 0.234880323F;
  p = p * t + 0.194462616F;
  return p * t;
}

/// erf(x). float: absolute error below 2e-7.
inline float erf_of(float x) {
  const float z = std::fabs(x);
  return std::copysign(1.0F - exp_of(-z * z) * scaled_erfc(z), x);
}
inline double erf_of(double x) { return std::erf(x); }

template <class T>
struct GeluPair {
  T value;
  T derivative;
};

/// gelu(x) = x Phi(x) and gelu'(x) = Phi(x) + x phi(x), the normal distribution's Phi and phi. float: absolute
/// errors below 2e-7 (1 + |x|).
inline GeluPair<float> gelu_of(float x) {
  const float z = std::fabs(x) * 0.707106781F;
  const float bell = exp_of(-0.5F * x * x);
  const float tail = 0.5F * bell * scaled_erfc(z);
  const float phi = x < 0.0F ? tail : 1.0F - tail;
  return {x * phi, phi + x * bell * 0.398942280F};
}
inline GeluPair<double> gelu_of(double x) {
  const double phi = 0.5 * std::erfc(-x * 0.70710678118654752440);
  return {x * phi, phi + x * std::exp(-0.5 * x * x) * 0.39894228040143267794};
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
