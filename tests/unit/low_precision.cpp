// bfloat16 and float16 against an oracle that knows only the formats' definitions: all bit patterns, and rounding by
// search for the nearest value.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::test {  // cblas.h may have a bfloat16 of its own, outside of namespaces

static_assert(std::is_same_v<compute_t<bfloat16>, float> && std::is_same_v<compute_t<float16>, float>);
static_assert(std::is_same_v<compute_t<float>, float> && std::is_same_v<compute_t<double>, double>);
static_assert(is_low_precision<bfloat16> && is_low_precision<float16> && !is_low_precision<float> &&
              !is_low_precision<double>);
static_assert(LowPrecisionBackend<backend::Reference, bfloat16> &&
              LowPrecisionBackend<backend::Reference, float16>);
static_assert(LowPrecisionBackend<backend::Cpu, bfloat16> && LowPrecisionBackend<backend::Cpu, float16> &&
              LowPrecisionBackend<backend::CpuBlas, bfloat16> &&
              LowPrecisionBackend<backend::CpuBlas, float16>);

namespace {

template <class T>
struct Format;
template <>
struct Format<bfloat16> {
  static constexpr int exponent_bits = 8, mantissa_bits = 7;
};
template <>
struct Format<float16> {
  static constexpr int exponent_bits = 5, mantissa_bits = 10;
};

/// The value of a pattern, from the definition.
template <class T>
double value_of(std::uint32_t bits) {
  constexpr int e_bits = Format<T>::exponent_bits;
  constexpr int m_bits = Format<T>::mantissa_bits;
  constexpr int bias = (1 << (e_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> m_bits) & ((1 << e_bits) - 1);
  const int mantissa = static_cast<int>(bits) & ((1 << m_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << e_bits) - 1) return mantissa != 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - m_bits);
  return sign * std::ldexp((1 << m_bits) + mantissa, exponent - bias - m_bits);
}

/// Finite magnitudes by their patterns, rising, and what would stand above the largest.
template <class T>
std::vector<double> magnitudes() {
  std::vector<double> all;
  for (std::uint32_t bits = 0; std::isfinite(value_of<T>(bits)); ++bits)
    all.push_back(value_of<T>(bits));
  all.push_back(2 * all.back() - all[all.size() - 2]);
  return all;
}

/// The pattern nearest to x, ties to the even one; the place above the largest is Inf's.
std::uint32_t nearest(const std::vector<double>& all, double x) {
  const double magnitude = std::abs(x);
  const std::uint32_t sign = std::signbit(x) ? 0x8000U : 0U;
  const auto above = std::lower_bound(all.begin(), all.end(), magnitude);
  if (above == all.end()) return sign | static_cast<std::uint32_t>(all.size() - 1);
  const auto high = static_cast<std::uint32_t>(above - all.begin());
  if (high == 0 || *above == magnitude) return sign | high;
  const double to_low = magnitude - all[high - 1];
  const double to_high = all[high] - magnitude;
  if (to_low != to_high) return sign | (to_low < to_high ? high - 1 : high);
  return sign | (high % 2 == 0 ? high : high - 1);
}

}  // namespace

TEST_CASE_TEMPLATE("every pattern to float and back", T, bfloat16, float16) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const T x = T::from_bits(static_cast<std::uint16_t>(bits));
    const float wide = x;
    const double exact = value_of<T>(bits);
    const T back(wide);
    if (std::isnan(exact)) {
      const bool right = std::isnan(wide) && std::isnan(static_cast<float>(back)) &&
                         std::signbit(wide) == ((bits >> 15) != 0) &&
                         std::signbit(static_cast<float>(back)) == std::signbit(wide);
      wrong += right ? 0 : 1;
    } else {
      const bool same = static_cast<double>(wide) == exact && std::signbit(wide) == std::signbit(exact);
      wrong += same && back.bits == bits ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("floats go to the nearest, ties to even", T, bfloat16, float16) {
  const std::vector<double> all = magnitudes<T>();
  int wrong = 0;
  const auto check = [&](float x) {
    for (const float y : {x, -x})
      wrong += T(y).bits == nearest(all, static_cast<double>(y)) ? 0 : 1;
  };
  // Around every value and around the middle of every two: the float itself and its neighbours.
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    for (const double middle : {all[i], (all[i] + all[i + 1]) / 2}) {
      const auto x = static_cast<float>(middle);
      check(x);
      if (x > 0) check(std::nextafter(x, 0.0F));
      if (x < std::numeric_limits<float>::max()) check(std::nextafter(x, INFINITY));
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random()) & 0x7FFFFFFFU);
    if (!std::isnan(x)) check(x);
  }
  check(INFINITY);
  check(std::numeric_limits<float>::max());
  check(std::numeric_limits<float>::denorm_min());
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("NaN stays NaN", T, bfloat16, float16) {
  for (const std::uint32_t bits :
       {0x7F800001U, 0xFF800001U, 0x7FC00000U, 0x7FFFFFFFU, 0xFFFFFFFFU, 0x7F801000U}) {
    const auto x = std::bit_cast<float>(bits);
    CHECK(std::isnan(static_cast<float>(T(x))));
    CHECK(std::signbit(static_cast<float>(T(x))) == std::signbit(x));
  }
}

TEST_CASE("files hold both types as they are") {
  std::vector<bfloat16> b{bfloat16(1.5F), bfloat16(-3.0e38F)};
  std::vector<float16> h{float16(65504.0F), float16(0x1p-24F), float16(-0.0F)};
  io::SafetensorsWriter writer;
  writer.add("b", {2}, b);
  writer.add("h", {3}, h);
  const io::SafetensorsFile file(io::FileBytes::from(writer.bytes()), "f");
  CHECK(file.find("b").dtype == io::DType::bf16);
  CHECK(file.find("h").dtype == io::DType::f16);
  const auto same = [](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [](auto p, auto q) { return p.bits == q.bits; });
  };
  CHECK(same(file.read<bfloat16>("b"), b));
  CHECK(same(file.read<float16>("h"), h));
  CHECK(file.read_as<double>("h") == std::vector<double>{65504, 0x1p-24, 0});
}

}  // namespace sparsegrad::test
