// The primitives of LowPrecisionBackend against plain loops in double: a file that includes this names the backend first, as
// `DeviceBackend`, with a Context that is made without arguments.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <sparsegrad/core/backend.hpp>

#include "device_memory.hpp"

namespace sparsegrad::test {

static_assert(LowPrecisionBackend<DeviceBackend, bfloat16> && LowPrecisionBackend<DeviceBackend, float16>);

/// A matrix with padding behind its rows, on both sides of the bus.
template <class T>
struct Strided {
  index_t rows, cols, stride;
  Host<T> host;

  Strided(index_t r, index_t c, index_t padding)
      : rows(r),
        cols(c),
        stride(c + padding),
        host(static_cast<std::size_t>(std::max<index_t>(r * (c + padding), 1)), T(-77.0F)) {}
  T& operator()(index_t i, index_t j) { return host[static_cast<std::size_t>(i * stride + j)]; }
  double at(index_t i, index_t j) const {
    return static_cast<double>(host[static_cast<std::size_t>(i * stride + j)]);
  }
  Strided& fill(std::mt19937_64& random) {
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        (*this)(i, j) = T(static_cast<float>(normal(random)));
    return *this;
  }
  Strided& fill_with(T x) {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        (*this)(i, j) = x;
    return *this;
  }
  template <class B>
  Buffer<T, B> upload(typename B::Context& ctx) const {
    return to_device<B>(ctx, host);
  }
  MatrixView<T> view(T* p) const { return MatrixView<T>(p, rows, cols, stride); }
  bool padding_untouched() const {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = cols; j < stride; ++j)
        if (at(i, j) != -77.0) return false;
    return true;
  }
};

/// The distance that rounding to Out may make of a number: half a unit of its last place, subnormals included.
template <class Out>
double rounding(double x) {
  if constexpr (std::is_same_v<Out, float>) {
    return 0x1p-24 * std::abs(x);
  } else {
    return low_precision_epsilon<Out> / 2 * std::abs(x) + (std::is_same_v<Out, float16> ? 0x1p-25 : 0.0);
  }
}

template <class T, class Out>
void check_low_precision_gemm(Op op_a, Op op_b, index_t m, index_t n, index_t k, float alpha, float beta,
                              index_t padding, std::mt19937_64& random,
                              DeviceBackend::Context ctx = DeviceBackend::Context()) {
  using B = DeviceBackend;
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(static_cast<int>(op_a));
  CAPTURE(static_cast<int>(op_b));
  CAPTURE(alpha);
  CAPTURE(beta);
  auto a = op_a == Op::none ? Strided<T>(m, k, padding) : Strided<T>(k, m, padding);
  auto b = op_b == Op::none ? Strided<T>(k, n, padding + 1) : Strided<T>(n, k, padding + 1);
  a.fill(random);
  b.fill(random);
  Strided<Out> c(m, n, padding + 2);
  beta == 0 ? c.fill_with(Out(std::numeric_limits<float>::quiet_NaN())) : c.fill(random);
  const Strided<Out> before = c;
  const auto da = a.template upload<B>(ctx);
  const auto db = b.template upload<B>(ctx);
  auto dc = c.template upload<B>(ctx);
  const MatrixView<const T> va(da.data(), a.rows, a.cols, a.stride);
  const MatrixView<const T> vb(db.data(), b.rows, b.cols, b.stride);
  if constexpr (std::is_same_v<Out, T>) {
    B::template gemm<T>(ctx, op_a, op_b, alpha, va, vb, beta, c.view(dc.data()));
  } else {
    B::template gemm_wide<T>(ctx, op_a, op_b, alpha, va, vb, beta, c.view(dc.data()));
  }
  c.host = to_host<B>(ctx, dc.data(), dc.size());
  bool right = true;
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double sum = 0;
      double size = 0;
      for (index_t l = 0; l < k; ++l) {
        const double term =
            (op_a == Op::none ? a.at(i, l) : a.at(l, i)) * (op_b == Op::none ? b.at(l, j) : b.at(j, l));
        sum += term;
        size += std::abs(term);
      }
      const double old = beta == 0 ? 0.0 : static_cast<double>(beta) * before.at(i, j);
      const double exact = static_cast<double>(alpha) * sum + old;
      // Sums in float: an error of a few units of float's in the sum of magnitudes, whatever the order.
      const double sums = 8 * 0x1p-24 * (std::abs(static_cast<double>(alpha)) * size + std::abs(old));
      right = right && std::abs(c.at(i, j) - exact) <= 1.01 * rounding<Out>(exact) + sums;
    }
  }
  CHECK(right);
  CHECK(c.padding_untouched());
}

TEST_CASE_TEMPLATE("low-precision gemm and gemm_wide: all ops, odd shapes, strides", T, bfloat16, float16) {
  std::mt19937_64 random(1);
  const std::vector<std::array<index_t, 3>> sizes = {{0, 3, 2},    {3, 2, 0},   {1, 1, 1},
                                                     {1, 7, 5},    {5, 7, 1},   {2, 3, 4},
                                                     {13, 17, 19}, {32, 16, 8}, {24, 40, 53}};
  for (const auto& [m, n, k] : sizes) {
    for (const Op op_a : {Op::none, Op::transpose}) {
      for (const Op op_b : {Op::none, Op::transpose}) {
        check_low_precision_gemm<T, T>(op_a, op_b, m, n, k, 1, 0, 0, random);
        check_low_precision_gemm<T, T>(op_a, op_b, m, n, k, -1.5F, 0.5F, 3, random);
        check_low_precision_gemm<T, float>(op_a, op_b, m, n, k, 1, 0, 0, random);
        check_low_precision_gemm<T, float>(op_a, op_b, m, n, k, 2, 1, 1, random);
      }
    }
  }
}

TEST_CASE_TEMPLATE("low-precision sums are float's: thousands of ones", T, bfloat16, float16) {
  using B = DeviceBackend;
  typename B::Context ctx;
  constexpr index_t k = 3000;  // in T a sum of ones would stop at 256 or 2048
  const auto ones = to_device<B>(ctx, Host<T>(k, T(1.0F)));
  auto low = to_device<B>(ctx, Host<T>(1, T(0.0F)));
  auto wide = to_device<B>(ctx, Host<float>(3, 0.0F));
  const MatrixView<const T> column(ones.data(), k, 1);
  B::template gemm<T>(ctx, Op::transpose, Op::none, 1.0F, column, column, 0.0F, low.matrix(1, 1));
  B::template gemm_wide<T>(ctx, Op::transpose, Op::none, 1.0F, column, column, 0.0F,
                           MatrixView<float>(wide.data(), 1, 1));
  B::template column_sums<T>(ctx, column, wide.data() + 1);
  const auto index = to_device<B>(ctx, Host<stored_index_t>{0});
  B::template sampled_product<T>(ctx, column, column, index.data(), 1, 1, wide.data() + 2);
  CHECK(to_host<B>(ctx, low.data(), 1)[0].bits == T(3000.0F).bits);
  CHECK(to_host<B>(ctx, wide.data(), 3) == Host<float>(3, 3000.0F));
}

TEST_CASE_TEMPLATE("widen and round_to: every pattern, ties, strides", T, bfloat16, float16) {
  using B = DeviceBackend;
  typename B::Context ctx;
  Strided<T> a(256, 256, 3);
  for (index_t i = 0; i < 256; ++i)
    for (index_t j = 0; j < 256; ++j)
      a(i, j) = T::from_bits(static_cast<std::uint16_t>(i * 256 + j));
  const auto da = a.template upload<B>(ctx);
  for (const index_t padding : {index_t{0}, index_t{5}}) {
    Strided<float> wide(256, 256, padding);
    auto dw = wide.template upload<B>(ctx);
    B::template widen<T>(ctx, MatrixView<const T>(da.data(), 256, 256, a.stride), wide.view(dw.data()));
    wide.host = to_host<B>(ctx, dw.data(), dw.size());
    CHECK(wide.padding_untouched());
    // A third, half and two thirds of the way to the next pattern.
    for (const float part : {0.0F, 0.375F, 0.5F, 0.625F}) {
      Strided<float> source = wide;
      for (index_t i = 0; i < 256; ++i) {
        for (index_t j = 0; j < 255; ++j) {
          const float x = wide(i, j);
          const float next = wide(i, j + 1);
          if (std::isfinite(x) && std::isfinite(next)) source(i, j) = x + part * (next - x);
        }
      }
      const auto ds = source.template upload<B>(ctx);
      Strided<T> back(256, 256, 2 * padding);
      auto dn = back.template upload<B>(ctx);
      B::template round_to<T>(ctx, MatrixView<const float>(ds.data(), 256, 256, source.stride),
                              back.view(dn.data()));
      back.host = to_host<B>(ctx, dn.data(), dn.size());
      int wrong = 0;
      for (index_t i = 0; i < 256; ++i) {
        for (index_t j = 0; j < 256; ++j) {
          const float x = wide(i, j);
          const bool widened =
              std::isnan(x) ? std::isnan(static_cast<float>(a(i, j))) : x == static_cast<float>(a(i, j));
          const float y = source(i, j);
          const bool rounded =
              std::isnan(y) ? std::isnan(static_cast<float>(back(i, j))) : back(i, j).bits == T(y).bits;
          wrong += widened && rounded ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
      CHECK(back.padding_untouched());
    }
  }
}

TEST_CASE_TEMPLATE("low-precision column_sums, add_to_rows, sampled_product", T, bfloat16, float16) {
  using B = DeviceBackend;
  std::mt19937_64 random(2);
  typename B::Context ctx;
  const std::vector<std::array<index_t, 4>> sizes = {
      {0, 4, 3, 0}, {1, 1, 1, 2}, {7, 5, 9, 3}, {301, 13, 11, 1}};
  for (const auto& [t, rows, cols, padding] : sizes) {
    const index_t tokens = t;
    CAPTURE(tokens);
    Strided<T> a(tokens, rows, padding);
    Strided<T> b(tokens, cols, padding + 1);
    a.fill(random);
    b.fill(random);
    auto da = a.template upload<B>(ctx);
    const auto db = b.template upload<B>(ctx);

    auto sums = to_device<B>(ctx, Host<float>(static_cast<std::size_t>(rows), 0.5F));
    B::template column_sums<T>(ctx, a.view(da.data()), sums.data());
    const auto found = to_host<B>(ctx, sums.data(), rows);
    Host<stored_index_t> index;
    for (index_t e = 0; e < rows * cols; e += 3)
      index.push_back(static_cast<stored_index_t>(e));
    const auto di = to_device<B>(ctx, index);
    auto value = to_device<B>(ctx, Host<float>(index.size(), -0.25F));
    B::template sampled_product<T>(ctx, a.view(da.data()),
                                   MatrixView<const T>(db.data(), tokens, cols, b.stride), di.data(),
                                   di.size(), cols, value.data());
    const auto values = to_host<B>(ctx, value.data(), value.size());
    bool right = true;
    for (index_t j = 0; j < rows; ++j) {
      double sum = 0.5;
      double size = 0.5;
      for (index_t i = 0; i < tokens; ++i) {
        sum += a.at(i, j);
        size += std::abs(a.at(i, j));
      }
      right =
          right && std::abs(static_cast<double>(found[static_cast<std::size_t>(j)]) - sum) <= 0x1p-22 * size;
    }
    CHECK(right);
    for (std::size_t e = 0; e < index.size(); ++e) {
      double sum = -0.25;
      double size = 0.25;
      for (index_t i = 0; i < tokens; ++i) {
        const double term = a.at(i, index[e] / cols) * b.at(i, index[e] % cols);
        sum += term;
        size += std::abs(term);
      }
      right = right && std::abs(static_cast<double>(values[e]) - sum) <= 8 * 0x1p-24 * size;
    }
    CHECK(right);

    Host<T> bias(static_cast<std::size_t>(rows));
    for (T& x : bias)
      x = T(static_cast<float>(std::normal_distribution<double>()(random)));
    const auto dbias = to_device<B>(ctx, bias);
    B::template add_to_rows<T>(ctx, dbias.data(), a.view(da.data()));
    Strided<T> after = a;
    after.host = to_host<B>(ctx, da.data(), da.size());
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < rows; ++j)
        right = right && after(i, j).bits == T(static_cast<float>(a.at(i, j)) +
                                               static_cast<float>(bias[static_cast<std::size_t>(j)]))
                                                 .bits;
    CHECK(right);
    CHECK(after.padding_untouched());
  }
}

}  // namespace sparsegrad::test
