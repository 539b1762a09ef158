// How fast a backend multiplies on this machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "../../core/backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// Rates of a backend's products on one thread, in floating-point operations a second; 0 where it
/// has no products of that type or they were not measured.
struct ProductRates {
  std::string backend;         ///< its name()
  double of_float = 0;         ///< products of float
  double of_double = 0;        ///< products of double
  double of_bfloat16 = 0;      ///< products of bfloat16 with sums in float
  double few_of_float = 0;     ///< those of float with few rows
  double few_of_double = 0;    ///< those of double with few rows
  double few_of_bfloat16 = 0;  ///< those of bfloat16 with few rows
};

/// Rate of C = A B^T in floating-point operations a second, where A has so many rows of T and B is
/// square of that extent: the best of a few products after one that only warms up. About 3 ms;
/// where a product takes longer than that, three products.
template <class T, Backend B>
double product_rate(typename B::Context& ctx, index_t rows = 256, index_t extent = 256) {
  using Clock = std::chrono::steady_clock;
  std::vector<T> memory(static_cast<std::size_t>((2 * rows + extent) * extent), T(1.0F));
  const MatrixView<const T> a(memory.data(), rows, extent);
  const MatrixView<const T> b(memory.data() + a.size(), extent, extent);
  const MatrixView<T> c(memory.data() + a.size() + b.size(), rows, extent);
  const auto product = [&] {
    const auto start = Clock::now();
    B::template gemm<T>(ctx, Op::none, Op::transpose, 1, a, b, 0, c);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  product();
  double best = (std::numeric_limits<double>::max)();
  double spent = 0;
  for (int runs = 0; runs < 2 || (spent < 3e-3 && runs < 100); ++runs) {
    const double seconds = product();
    best = (std::min)(best, seconds);
    spent += seconds;
  }
  return 2 * static_cast<double>(rows) * static_cast<double>(b.size()) / (std::max)(best, 1e-9);
}

/// Rows of the products that ProductRates calls products with few rows: a short sequence's tokens.
inline constexpr index_t few_rows = 14;

/// The rates of B's products, on a context of its own with one thread.
template <Backend B>
ProductRates product_rates() {
  typename B::Context ctx(1);
  ProductRates rates{B::name()};
  rates.of_float = product_rate<float, B>(ctx);
  rates.of_double = product_rate<double, B>(ctx);
  rates.few_of_float = product_rate<float, B>(ctx, few_rows);
  rates.few_of_double = product_rate<double, B>(ctx, few_rows);
  if constexpr (LowPrecisionBackend<B, bfloat16>) {
    rates.of_bfloat16 = product_rate<bfloat16, B>(ctx);
    rates.few_of_bfloat16 = product_rate<bfloat16, B>(ctx, few_rows);
  }
  return rates;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
