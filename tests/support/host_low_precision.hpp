// What a host backend promises of 16-bit numbers beside the shared body device_low_precision_primitives.hpp, which
// stands before this: products of several blocks, the same bits on any number of threads, NaN, Inf and subnormals.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <sparsegrad/core/float_bits.hpp>

#include "device_low_precision_primitives.hpp"

namespace sparsegrad::test {

TEST_CASE_TEMPLATE("low-precision products that are cut in every direction", T, bfloat16, float16) {
  std::mt19937_64 random(5);
  // Beyond the blocks of rows, of columns and of the depth that are converted at a time.
  const std::vector<std::array<index_t, 3>> sizes = {
      {1100, 9, 40}, {9, 1700, 40}, {21, 19, 1700}, {530, 790, 5}, {5, 800, 800}};
  for (const auto& [m, n, k] : sizes) {
    check_low_precision_gemm<T, T>(Op::none, Op::transpose, m, n, k, 1, 0, 0, random,
                                   DeviceBackend::Context(1));
    check_low_precision_gemm<T, T>(Op::transpose, Op::none, m, n, k, -1.5F, 0.5F, 1, random,
                                   DeviceBackend::Context(1));
    check_low_precision_gemm<T, float>(Op::transpose, Op::none, m, n, k, 2, 1, 0, random,
                                       DeviceBackend::Context(1));
    check_low_precision_gemm<T, float>(Op::none, Op::none, m, n, k, 1, 0, 3, random,
                                       DeviceBackend::Context(1));
    check_low_precision_gemm<T, float>(Op::transpose, Op::transpose, m, n, k, 1, 0.5F, 0, random,
                                       DeviceBackend::Context(1));
  }
}

/// The results of every primitive on 16-bit numbers, one after the other.
template <class T>
Host<float> results_of_all(typename DeviceBackend::Context& ctx) {
  using B = DeviceBackend;
  constexpr index_t tokens = 150;
  constexpr index_t rows = 700;
  constexpr index_t cols = 530;
  std::mt19937_64 random(6);
  Strided<T> a(tokens, rows, 0);
  Strided<T> b(tokens, cols, 0);
  a.fill(random);
  b.fill(random);
  Host<T> low(static_cast<std::size_t>(rows * cols));
  Host<float> wide(low.size());
  Host<float> all;
  B::template gemm<T>(ctx, Op::transpose, Op::none, 1.0F, a.view(a.host.data()), b.view(b.host.data()), 0.0F,
                      MatrixView<T>(low.data(), rows, cols));
  all.insert(all.end(), low.begin(), low.end());
  B::template gemm_wide<T>(ctx, Op::transpose, Op::none, 1.0F, a.view(a.host.data()), b.view(b.host.data()),
                           0.0F, MatrixView<float>(wide.data(), rows, cols));
  all.insert(all.end(), wide.begin(), wide.end());
  Host<float> sums(static_cast<std::size_t>(rows), 0.0F);
  B::template column_sums<T>(ctx, a.view(a.host.data()), sums.data());
  all.insert(all.end(), sums.begin(), sums.end());
  Host<stored_index_t> index;
  for (index_t e = 0; e < rows * cols; e += 37)
    index.push_back(static_cast<stored_index_t>(e));
  Host<float> value(index.size(), 0.0F);
  B::template sampled_product<T>(ctx, a.view(a.host.data()), b.view(b.host.data()), index.data(),
                                 static_cast<index_t>(index.size()), cols, value.data());
  all.insert(all.end(), value.begin(), value.end());
  B::template add_to_rows<T>(ctx, low.data(), a.view(a.host.data()));
  all.insert(all.end(), a.host.begin(), a.host.end());
  return all;
}

TEST_CASE_TEMPLATE("low-precision primitives of a deterministic context: the same bits on 1, 2 and 3 threads",
                   T, bfloat16, float16) {
  typename DeviceBackend::Context alone(1, true);
  const Host<float> one = results_of_all<T>(alone);
  for (const int threads : {2, 3}) {
    typename DeviceBackend::Context ctx(threads, true);
    const Host<float> several = results_of_all<T>(ctx);
    REQUIRE(several.size() == one.size());
    CHECK(std::memcmp(several.data(), one.data(), one.size() * sizeof(float)) == 0);
  }
}

TEST_CASE_TEMPLATE("add_to_rows of every 16-bit pattern, rounded as one number is", T, bfloat16, float16) {
  using B = DeviceBackend;
  typename B::Context ctx(1);
  constexpr index_t n = 65536;
  const std::vector<std::uint16_t> others = {0x0000, 0x8001, 0x0003, 0x3C01, 0x4049, 0xBF7F, 0x7BFF,
                                             0x7F7F, 0x7C00, 0x7F80, 0xFF80, 0x7FFF, 0xFFC1};
  for (const std::uint16_t other : others) {
    CAPTURE(other);
    Host<T> x, v(n, T::from_bits(other));
    for (index_t i = 0; i < n; ++i)
      x.push_back(T::from_bits(static_cast<std::uint16_t>(i)));
    const Host<T> before = x;
    B::template add_to_rows<T>(ctx, v.data(), MatrixView<T>(x.data(), 1, n));
    int wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const T expected(static_cast<float>(before[i]) + static_cast<float>(v[i]));
      const bool same = is_nan(expected) ? is_nan(x[i]) : x[i].bits == expected.bits;
      wrong += same ? 0 : 1;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE_TEMPLATE("low-precision column_sums in T's whole range", T, bfloat16, float16) {
  using B = DeviceBackend;
  typename B::Context ctx(1);
  const std::uint16_t largest = std::is_same_v<T, bfloat16> ? 0x7F7F : 0x7BFF;
  const std::uint16_t infinity = largest + 1;
  // Sums of whose terms some are beyond float's range; subnormals; NaN and Inf.
  const std::vector<std::array<std::uint16_t, 7>> columns = {
      {largest, largest, largest, 0, static_cast<std::uint16_t>(largest | 0x8000),
       static_cast<std::uint16_t>(largest | 0x8000), 0},
      {1, 2, 3, 4, 5, 0x8001, 1},
      {1, infinity, 0, 0, 0, 0, 1},
      {1, 0, 0, 0, 0, infinity, static_cast<std::uint16_t>(infinity | 0x8000)},
      {0, 0, 0, 0, 0, 0, static_cast<std::uint16_t>(infinity + 1)}};
  for (const index_t cols : {1, 15, 16, 33, 600}) {
    for (const auto& column : columns) {
      CAPTURE(cols);
      CAPTURE(column[0]);
      Strided<T> a(7, cols, 2);
      double expected = 0;
      for (index_t i = 0; i < 7; ++i) {
        const T x = T::from_bits(column[static_cast<std::size_t>(i)]);
        expected += static_cast<double>(static_cast<float>(x));
        for (index_t j = 0; j < cols; ++j)
          a(i, j) = x;
      }
      Host<float> sums(static_cast<std::size_t>(cols), 0.0F);
      B::template column_sums<T>(ctx, a.view(a.host.data()), sums.data());
      bool right = true;
      for (const float s : sums)
        right = right && (std::isnan(expected) ? std::isnan(s) : s == static_cast<float>(expected));
      CHECK(right);
    }
  }
}

TEST_CASE_TEMPLATE("low-precision products: NaN and Inf stay in their rows, subnormals count", T, bfloat16,
                   float16) {
  using B = DeviceBackend;
  typename B::Context ctx(1);
  constexpr index_t m = 40;
  constexpr index_t k = 30;
  constexpr index_t n = 35;
  Strided<T> a(m, k, 1);
  Strided<T> b(n, k, 0);
  a.fill_with(T(0.0F));
  b.fill_with(T(0.0F));
  for (index_t j = 0; j < n; ++j)
    b(j, 3) = b(j, 4) = b(j, 5) = T(8.0F);
  a(7, 3) = T(std::numeric_limits<float>::quiet_NaN());
  a(9, 4) = T(-std::numeric_limits<float>::infinity());
  a(11, 5) = T::from_bits(1);  // the smallest number
  Host<T> c(static_cast<std::size_t>(m * n));
  Host<float> wide(c.size());
  B::template gemm<T>(ctx, Op::none, Op::transpose, 1.0F, a.view(a.host.data()), b.view(b.host.data()), 0.0F,
                      MatrixView<T>(c.data(), m, n));
  B::template gemm_wide<T>(ctx, Op::none, Op::transpose, 1.0F, a.view(a.host.data()), b.view(b.host.data()),
                           0.0F, MatrixView<float>(wide.data(), m, n));
  Host<stored_index_t> index;
  for (index_t e = 0; e < m * n; ++e)
    index.push_back(static_cast<stored_index_t>(e));
  // The same by entries: of A^T and B^T, whose rows are the terms.
  Strided<T> at(k, m, 0);
  Strided<T> bt(k, n, 3);
  for (index_t l = 0; l < k; ++l) {
    for (index_t i = 0; i < m; ++i)
      at(l, i) = a(i, l);
    for (index_t j = 0; j < n; ++j)
      bt(l, j) = b(j, l);
  }
  Host<float> value(index.size(), 0.0F);
  B::template sampled_product<T>(ctx, at.view(at.host.data()), bt.view(bt.host.data()), index.data(), m * n,
                                 n, value.data());
  // A processor's own products of bfloat16 (AVX-512 BF16, AMX) take subnormal numbers for 0.
  const bool keeps_subnormals = [](auto& context) {
    if constexpr (std::is_same_v<T, bfloat16> && requires { context.template multiplies<T>(); }) {
      return !context.template multiplies<T>();
    } else {
      return true;
    }
  }(ctx);
  bool right = true;
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) {
      const auto e = static_cast<std::size_t>(i * n + j);
      if (i == 7) {
        right = right && is_nan(c[e]) && std::isnan(wide[e]) && std::isnan(value[e]);
        continue;
      }
      const float expected = i == 9    ? -std::numeric_limits<float>::infinity()
                             : i == 11 ? 8 * static_cast<float>(T::from_bits(1))
                                       : 0.0F;
      const float product = i == 11 && !keeps_subnormals ? 0.0F : expected;
      right = right && static_cast<float>(c[e]) == product && wide[e] == product && value[e] == expected;
    }
  }
  CHECK(right);
}

TEST_CASE_TEMPLATE("low-precision primitives of no terms", T, bfloat16, float16) {
  using B = DeviceBackend;
  typename B::Context ctx(1);
  Host<T> c(6, T(3.0F));
  Host<float> wide(6, 3.0F);
  const MatrixView<const T> no_depth(nullptr, 2, 0);
  const MatrixView<const T> none(nullptr, 0, 3);
  B::template gemm<T>(ctx, Op::none, Op::none, 1.0F, no_depth, none, 0.5F, MatrixView<T>(c.data(), 2, 3));
  B::template gemm_wide<T>(ctx, Op::none, Op::none, 1.0F, no_depth, none, 0.5F,
                           MatrixView<float>(wide.data(), 2, 3));
  CHECK(static_cast<float>(c[5]) == 1.5F);
  CHECK(wide == Host<float>(6, 1.5F));
  B::template gemm<T>(ctx, Op::none, Op::none, 1.0F, no_depth, none, 0.0F, MatrixView<T>(c.data(), 2, 3));
  CHECK(static_cast<float>(c[0]) == 0.0F);
  B::template column_sums<T>(ctx, none, wide.data());
  B::template add_to_rows<T>(ctx, c.data(), MatrixView<T>(nullptr, 0, 3));
  const stored_index_t first = 0;
  B::template sampled_product<T>(ctx, none, none, &first, 1, 3, wide.data());
  B::template sampled_product<T>(ctx, none, none, nullptr, 0, 3, nullptr);
  CHECK(wide == Host<float>(6, 1.5F));
}

}  // namespace sparsegrad::test
