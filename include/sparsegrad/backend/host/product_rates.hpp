// How fast a backend multiplies on this machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "../../core/backend.hpp"

namespace sparsegrad::backend::host {

/// Rates of a backend's products on one thread, in floating-point operations a second; 0 where it
/// has no products of that type or they were not measured.
struct ProductRates {
  std::string backend;     ///< its name()
  double of_float = 0;     ///< products of float
  double of_double = 0;    ///< products of double
  double of_bfloat16 = 0;  ///< products of bfloat16 with sums in float
};

/// Rate of C = A B^T with square matrices of T of that extent in floating-point operations a second:
/// the best of a few products after one that only warms up. About 3 ms; where a product takes
/// longer than that, three products.
template <class T, Backend B>
double product_rate(typename B::Context& ctx, index_t extent = 256) {
  using Clock = std::chrono::steady_clock;
  const auto count = static_cast<std::size_t>(extent * extent);
  std::vector<T> memory(3 * count, T(1.0F));
  const MatrixView<const T> a(memory.data(), extent, extent);
  const MatrixView<const T> b(memory.data() + count, extent, extent);
  const MatrixView<T> c(memory.data() + 2 * count, extent, extent);
  const auto product = [&] {
    const auto start = Clock::now();
    B::template gemm<T>(ctx, Op::none, Op::transpose, 1, a, b, 0, c);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  product();
  double best = std::numeric_limits<double>::max();
  double spent = 0;
  for (int runs = 0; runs < 2 || (spent < 3e-3 && runs < 100); ++runs) {
    const double seconds = product();
    best = std::min(best, seconds);
    spent += seconds;
  }
  const auto n = static_cast<double>(extent);
  return 2 * n * n * n / std::max(best, 1e-9);
}

/// The rates of B's products, on a context of its own with one thread.
template <Backend B>
ProductRates product_rates() {
  typename B::Context ctx(1);
  ProductRates rates{B::name()};
  rates.of_float = product_rate<float, B>(ctx);
  rates.of_double = product_rate<double, B>(ctx);
  if constexpr (LowPrecisionBackend<B, bfloat16>) rates.of_bfloat16 = product_rate<bfloat16, B>(ctx);
  return rates;
}

}  // namespace sparsegrad::backend::host
