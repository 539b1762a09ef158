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

/// 2^y for -125 <= y <= 126, relative error 9e-8 before rounding.
template <class V>
inline V power_of_two(V y) {
  constexpr float shift = 12582912.0F;  // as above
  const V shifted = y + shift;
  const V r = y - (shifted - shift);
  V q = r * 1.32646e-3F + 9.67151e-3F;
  q = q * r + 5.550734e-2F;
  q = q * r + 2.4022242e-1F;
  q = q * r + 6.9314698e-1F;
  q = q * r + 1.0F;
  return std::bit_cast<V>(std::bit_cast<words_of<V>>(q) + (std::bit_cast<words_of<V>>(shifted) << 23));
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

/// e^x for results that are rounded to T. Of a T of 16 bits in fewer operations: relative error below 1e-7 (2 + |x|), x
/// clamped to [-86, 86].
template <class T, class V>
inline V exp_for(V x) {
  if constexpr (is_low_precision<T>) {
    const V low = V{} - 124.0F;
    const V high = V{} + 124.0F;
    V y = x * 1.44269504F;
    y = y < low ? low : y;
    y = y > high ? high : y;
    return detail::power_of_two(y);
  } else {
    return exp_of(x);
  }
}

/// Natural logarithm of positive normal numbers. float: absolute error below 1e-7 (1 + |log x|).
inline Pack<float> log_of(Pack<float> x) {
  constexpr std::uint32_t root_of_half = 0x3F3504F3U;
  const detail::WordPack bits = std::bit_cast<detail::WordPack>(x);
  const detail::SignedPack power = std::bit_cast<detail::SignedPack>(bits - root_of_half) >> 23;
  // 1 + r = x / 2^power, from the root of 1/2 to that of 2.
  const Pack<float> r =
      std::bit_cast<Pack<float>>(bits - (std::bit_cast<detail::WordPack>(power) << 23)) - 1.0F;
  const Pack<float> e = __builtin_convertvector(power, Pack<float>);
  Pack<float> q = r * 7.0376836292e-2F - 1.1514610310e-1F;
  q = q * r + 1.1676998740e-1F;
  q = q * r - 1.2420140846e-1F;
  q = q * r + 1.4249322787e-1F;
  q = q * r - 1.6668057665e-1F;
  q = q * r + 2.0000714765e-1F;
  q = q * r - 2.4999993993e-1F;
  q = q * r + 3.3333331174e-1F;
  const Pack<float> square = r * r;
  return r + (q * r * square - 0.5F * square + e * -2.12194440e-4F) + e * 0.693359375F;
}
inline Pack<double> log_of(Pack<double> x) {
  return detail::by_lane(x, [](double v) { return std::log(v); });
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

/// The same for results that are rounded to T. Of a T of 16 bits in fewer operations: absolute errors below 1e-6
/// (1 + |x|), and below 2e-3 of the values.
template <class T, class V>
inline GeluPair<V> gelu_for(V x) {
  if constexpr (is_low_precision<T>) {
    const V low = V{} - 125.0F;
    V y = x * x * -0.721347520F;
    y = y < low ? low : y;
    const V bell = detail::power_of_two(y);
    // Phi(-|x|) over the bell: a polynomial in t, fitted as scaled_erfc is.
    const V t = 1.0F / (1.0F + 0.35F * detail::absolute(x));
    V p = t * -0.09646372F + 0.27154466F;
    p = p * t + 0.02360941F;
    p = p * t + 0.16376199F;
    p = p * t + 0.13754714F;
    const V tail = bell * (p * t);
    const V other = 1.0F - tail;
    const V phi = x < V{} ? tail : other;
    return {x * phi, phi + x * bell * 0.398942280F};
  } else {
    return gelu_of(x);
  }
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

/// What a pass over a row adds to several sums at one place.
template <class V, int count>
struct Terms {
  V of[count];

  Terms& operator+=(const Terms& other) {
    for (int k = 0; k < count; ++k)
      of[k] += other.of[k];
    return *this;
  }
};
template <class V, class... Rest>
inline Terms<V, 1 + static_cast<int>(sizeof...(Rest))> terms(V first, Rest... rest) {
  return {{first, rest...}};
}

/// Sums of the terms(a, b, ...) = f(at) over the places of [0, n), each in an order that depends on n alone: lane l of two
/// packs side by side adds elements l, l + 2W, ..., the first one those of a single last pack too; then the lanes in
/// pairs, then the rest.
template <class T, int count, class F>
inline Terms<T, count> sums_of(index_t n, F f) {
  constexpr int width = Simd<T>::width;
  Terms<Pack<T>, count> low = {}, high = {};
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
  Terms<T, count> sums = {};
  for (; j < n; ++j)
    sums += f(ElementAt<T>{j});
  for (int k = 0; k < count; ++k)
    sums.of[k] += detail::folded<T, width>(low.of[k], [](auto a, auto b) { return a + b; });
  return sums;
}

/// Sum of f(at) over the places of [0, n), in the order of sums_of.
template <class T, class F>
inline T sum_of(index_t n, F f) {
  return sums_of<T, 1>(n, [=](auto at) { return terms(f(at)); }).of[0];
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
