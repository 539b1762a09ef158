// The contract of core/backend.hpp, checked once for every backend: a file that includes this names the backend
// first, as `ContractBackend`. Oracles are loops in long double, written here; no backend checks another.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/core/backend.hpp>
#include <sparsegrad/core/float_bits.hpp>

#include "support/padded_matrix.hpp"
#include "support/tolerance.hpp"

namespace sparsegrad::test {

static_assert(Backend<ContractBackend>);

using B = ContractBackend;
using Context = B::Context;
using Random = std::mt19937_64;

constexpr auto ops = {Op::none, Op::transpose};

template <class T>
std::vector<T> normal_values(Random& random, index_t n) {
  std::normal_distribution<double> normal;
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& v : x)
    v = static_cast<T>(normal(random));
  return x;
}

template <class T>
T entry(Op op, const PaddedMatrix<T>& a, index_t i, index_t j) {
  return op == Op::none ? a(i, j) : a(j, i);
}

/// A matrix that becomes rows x cols under op.
template <class T>
PaddedMatrix<T> operand(Op op, index_t rows, index_t cols, index_t padding) {
  return op == Op::none ? PaddedMatrix<T>(rows, cols, padding) : PaddedMatrix<T>(cols, rows, padding);
}

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

/// f(ctx) returns numbers; they must have the same bits for 1, 2 and 3 threads.
template <class F>
void check_same_for_any_threads(bool deterministic, F&& f) {
  Context one(1, deterministic);
  const auto expected = f(one);
  for (const int threads : {2, 3}) {
    CAPTURE(threads);
    Context ctx(threads, deterministic);
    CHECK(same_bits(f(ctx), expected));
    CHECK(same_bits(f(ctx), expected));
  }
}

/// Shapes (rows, cols, padding) for primitives of one matrix.
inline std::vector<std::array<index_t, 3>> shapes() {
  return {{0, 0, 0}, {0, 5, 0}, {5, 0, 2},   {1, 1, 0},    {1, 1, 3},    {1, 17, 0},    {17, 1, 0},
          {3, 5, 2}, {7, 7, 0}, {13, 31, 5}, {64, 48, 16}, {101, 97, 1}, {300, 211, 0}, {2, 40009, 7}};
}

// --- dense products -------------------------------------------------------------------------------------------

template <class T>
void check_gemm(Context& ctx, Op op_a, Op op_b, index_t m, index_t n, index_t k, T alpha, T beta,
                index_t padding, Random& random) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(static_cast<int>(op_a));
  CAPTURE(static_cast<int>(op_b));
  CAPTURE(alpha);
  CAPTURE(beta);
  const auto a = operand<T>(op_a, m, k, padding).fill(random);
  const auto b = operand<T>(op_b, k, n, padding + 1).fill(random);
  PaddedMatrix<T> c(m, n, padding + 2);
  if (beta == T(0)) {
    c.fill_with(std::numeric_limits<T>::quiet_NaN());
  } else {
    c.fill(random);
  }
  const PaddedMatrix<T> before = c;
  B::template gemm<T>(ctx, op_a, op_b, alpha, a.const_view(), b.const_view(), beta, c.view());
  bool right = true;
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) {
      long double sum = 0;
      long double size = 0;
      for (index_t l = 0; l < k; ++l) {
        const long double term = static_cast<long double>(entry(op_a, a, i, l)) * entry(op_b, b, l, j);
        sum += term;
        size = std::max(size, std::fabs(term));
      }
      long double exact = alpha * sum;
      if (beta != T(0)) exact += static_cast<long double>(beta) * before(i, j);
      const double scale = std::fabs(static_cast<double>(alpha)) * static_cast<double>(size) +
                           std::fabs(static_cast<double>(beta * (beta == T(0) ? T(0) : before(i, j))));
      right = right && Tolerance<T>::sum(static_cast<double>(k), scale).holds(c(i, j), exact);
    }
  }
  CHECK(right);
  CHECK(c.padding_untouched());
}

TEST_CASE_TEMPLATE("gemm: all ops, odd shapes, strides", T, float, double) {
  Random random(1);
  for (const int threads : {1, 2, 3}) {
    for (const bool deterministic : {false, true}) {
      Context ctx(threads, deterministic);
      const std::vector<std::array<index_t, 3>> sizes = {
          {0, 3, 2}, {3, 0, 2},    {3, 2, 0},   {1, 1, 1},    {1, 7, 5},     {7, 1, 5},    {5, 7, 1},
          {2, 3, 4}, {13, 17, 19}, {32, 16, 8}, {61, 67, 71}, {131, 40, 53}, {40, 131, 53}};
      for (const auto& [m, n, k] : sizes) {
        for (const Op op_a : ops) {
          for (const Op op_b : ops) {
            check_gemm<T>(ctx, op_a, op_b, m, n, k, T(1), T(0), 0, random);
            check_gemm<T>(ctx, op_a, op_b, m, n, k, T(-1.5), T(0.5), 3, random);
            check_gemm<T>(ctx, op_a, op_b, m, n, k, T(2), T(1), 1, random);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("gemm: shapes that are cut into tiles", T, float, double) {
  Random random(2);
  for (const bool deterministic : {false, true}) {
    Context ctx(3, deterministic);
    for (const Op op_a : ops) {
      for (const Op op_b : ops) {
        check_gemm<T>(ctx, op_a, op_b, 530, 90, 37, T(1), T(0), 5, random);
        check_gemm<T>(ctx, op_a, op_b, 90, 530, 37, T(1), T(1), 0, random);
      }
    }
  }
}

TEST_CASE_TEMPLATE("gemm: beta = 0 overwrites NaN, also with no depth", T, float, double) {
  Context ctx(2);
  const PaddedMatrix<T> a(3, 0);
  const PaddedMatrix<T> b(0, 4);
  PaddedMatrix<T> c(3, 4, 1);
  c.fill_with(std::numeric_limits<T>::quiet_NaN());
  B::template gemm<T>(ctx, Op::none, Op::none, T(1), a.const_view(), b.const_view(), T(0), c.view());
  CHECK(c.entries() == std::vector<T>(12, T(0)));
  c.fill_with(T(2));
  B::template gemm<T>(ctx, Op::none, Op::none, T(1), a.const_view(), b.const_view(), T(0.5), c.view());
  CHECK(c.entries() == std::vector<T>(12, T(1)));
}

TEST_CASE_TEMPLATE("gemm: same bits for any number of threads when deterministic", T, float, double) {
  Random random(3);
  const auto a = PaddedMatrix<T>(600, 70).fill(random);
  const auto b = PaddedMatrix<T>(70, 1100).fill(random);
  check_same_for_any_threads(true, [&](Context& ctx) {
    PaddedMatrix<T> c(600, 1100);
    B::template gemm<T>(ctx, Op::none, Op::none, T(1), a.const_view(), b.const_view(), T(0), c.view());
    PaddedMatrix<T> d(1100, 600);
    B::template gemm<T>(ctx, Op::transpose, Op::transpose, T(1), b.const_view(), a.const_view(), T(0),
                        d.view());
    auto all = c.entries();
    const auto more = d.entries();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  });
}

TEST_CASE_TEMPLATE("gemm_batched: products of differing shapes, and of equal ones in a row", T, float,
                   double) {
  Random random(4);
  const std::vector<std::array<index_t, 3>> sizes = {{3, 5, 7},    {0, 4, 2},   {1, 1, 1},
                                                     {64, 33, 40}, {5, 6, 0},   {17, 2, 90},
                                                     {17, 2, 90},  {17, 2, 90}, {8, 8, 8}};
  for (const Op op_a : ops) {
    for (const Op op_b : ops) {
      std::vector<PaddedMatrix<T>> as, bs, cs, expected;
      for (const auto& [m, n, k] : sizes) {
        as.push_back(operand<T>(op_a, m, k, 2).fill(random));
        bs.push_back(operand<T>(op_b, k, n, 0).fill(random));
        cs.push_back(PaddedMatrix<T>(m, n, 1).fill(random));
      }
      expected = cs;
      std::vector<MatrixView<const T>> va, vb;
      std::vector<MatrixView<T>> vc;
      for (std::size_t e = 0; e < sizes.size(); ++e) {
        va.push_back(as[e].const_view());
        vb.push_back(bs[e].const_view());
        vc.push_back(cs[e].view());
      }
      Context ctx(3);
      B::template gemm_batched<T>(ctx, op_a, op_b, T(2), va, vb, T(-1), vc);
      for (std::size_t e = 0; e < sizes.size(); ++e) {
        const auto [m, n, k] = sizes[e];
        CHECK(cs[e].padding_untouched());
        for (index_t i = 0; i < m; ++i) {
          for (index_t j = 0; j < n; ++j) {
            long double exact = -static_cast<long double>(expected[e](i, j));
            for (index_t l = 0; l < k; ++l)
              exact += 2.0L * entry(op_a, as[e], i, l) * entry(op_b, bs[e], l, j);
            REQUIRE(Tolerance<T>::sum(static_cast<double>(k + 1), 10).holds(cs[e](i, j), exact));
          }
        }
      }
      B::template gemm_batched<T>(ctx, op_a, op_b, T(2), {}, {}, T(-1), {});
    }
  }
}

TEST_CASE_TEMPLATE("gram: weighted lower triangle, added to", T, float, double) {
  Random random(5);
  for (const auto& [n, depth] : std::vector<std::array<index_t, 2>>{
           {0, 3}, {3, 0}, {1, 1}, {5, 7}, {17, 64}, {97, 13}, {403, 11}, {800, 3}, {1160, 2}}) {
    for (const Op op : ops) {
      CAPTURE(n);
      CAPTURE(depth);
      const auto a = operand<T>(op, n, depth, 3).fill(random);
      PaddedMatrix<double> g(n, n, 2);
      g.fill(random);
      const PaddedMatrix<double> before = g;
      Context ctx(2);
      B::template gram<T>(ctx, op, a.const_view(), 0.75, g.view());
      bool right = true;
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < n; ++j) {
          long double exact = before(i, j);
          for (index_t l = 0; l < depth && j <= i; ++l)
            exact += 0.75L * entry(op, a, i, l) * entry(op, a, j, l);
          right = right && (j > i ? g(i, j) == before(i, j)
                                  : Tolerance<T>::sum(static_cast<double>(depth), 16).holds(g(i, j), exact));
        }
      }
      CHECK(right);
      CHECK(g.padding_untouched());
    }
  }
  const auto a = PaddedMatrix<T>(800, 40).fill(random);
  check_same_for_any_threads(false, [&](Context& ctx) {
    PaddedMatrix<double> g(800, 800);
    B::template gram<T>(ctx, Op::none, a.const_view(), 1.0, g.view());
    return g.entries();
  });
}

// --- symmetric eigenproblem -------------------------------------------------------------------------------------

/// Rows of `vectors` must be orthonormal eigenvectors of `a` for the falling values w.
inline void check_eigenpairs(const PaddedMatrix<double>& a, const PaddedMatrix<double>& vectors,
                             const std::vector<double>& w) {
  const index_t n = a.rows();
  double norm = 0;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j)
      norm += a(i, j) * a(i, j);
  norm = std::sqrt(norm);
  double residual = 0;
  double defect = 0;
  for (index_t e = 0; e < n; ++e) {
    if (e > 0) CHECK(w[static_cast<std::size_t>(e - 1)] >= w[static_cast<std::size_t>(e)]);
    for (index_t i = 0; i < n; ++i) {
      long double av = 0;
      for (index_t j = 0; j < n; ++j)
        av += static_cast<long double>(a(i, j)) * vectors(e, j);
      residual = std::max(
          residual, std::fabs(static_cast<double>(
                        av - static_cast<long double>(w[static_cast<std::size_t>(e)]) * vectors(e, i))));
    }
    for (index_t f = 0; f <= e; ++f) {
      long double dot = 0;
      for (index_t i = 0; i < n; ++i)
        dot += static_cast<long double>(vectors(e, i)) * vectors(f, i);
      defect = std::max(defect, std::fabs(static_cast<double>(dot) - (e == f ? 1.0 : 0.0)));
    }
  }
  CHECK(residual <= 1e-13 * (norm + 1e-300) * static_cast<double>(n + 1));
  CHECK(defect <= 1e-13 * static_cast<double>(n + 1));
}

/// Q diag(values) Q^T for a random reflector Q: any spectrum wanted.
inline PaddedMatrix<double> with_spectrum(const std::vector<double>& values, Random& random) {
  const auto n = static_cast<index_t>(values.size());
  const std::vector<double> u = normal_values<double>(random, n);
  const double squared = std::inner_product(u.begin(), u.end(), u.begin(), 0.0);
  PaddedMatrix<double> a(n, n, 3);
  const auto q = [&](index_t i, index_t j) {
    return (i == j ? 1.0 : 0.0) -
           2 * u[static_cast<std::size_t>(i)] * u[static_cast<std::size_t>(j)] / squared;
  };
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (index_t l = 0; l < n; ++l)
        sum += q(i, l) * values[static_cast<std::size_t>(l)] * q(j, l);
      a.view()(i, j) = sum;
      a.view()(j, i) = sum;
    }
  }
  return a;
}

TEST_CASE("eigh: random, repeated, rank-deficient, tiny") {
  Random random(6);
  std::vector<std::vector<double>> spectra = {{},       {4.0}, {-2.5}, {3, 3}, std::vector<double>(20, 1.0),
                                              {0, 0, 0}};
  for (const index_t n : {2, 3, 17, 64, 101})
    spectra.push_back(normal_values<double>(random, n));
  spectra.push_back({5, 5, 5, 1, 1, 0, 0, 0, -2, -2});
  std::vector<double> low_rank(60, 0.0);
  std::fill(low_rank.begin(), low_rank.begin() + 7, 2.0);
  low_rank[0] = 1e8;
  spectra.push_back(low_rank);
  for (std::vector<double>& values : spectra) {
    const auto n = static_cast<index_t>(values.size());
    CAPTURE(n);
    const PaddedMatrix<double> a = with_spectrum(values, random);
    PaddedMatrix<double> work = a;
    for (index_t i = 0; i < n; ++i)  // only the lower triangle counts
      for (index_t j = i + 1; j < n; ++j)
        work.view()(i, j) = 1e3;
    std::vector<double> w(values.size());
    Context ctx(2);
    B::eigh(ctx, work.view(), w.data());
    check_eigenpairs(a, work, w);
    CHECK(work.padding_untouched());
    std::sort(values.rbegin(), values.rend());
    double largest = 0;
    for (const double v : values)
      largest = std::max(largest, std::fabs(v));
    for (std::size_t e = 0; e < w.size(); ++e)
      CHECK(std::fabs(w[e] - values[e]) <= 1e-13 * largest * static_cast<double>(n + 1));
  }
}

TEST_CASE("eigh: same bits for any number of threads when deterministic") {
  Random random(7);
  const PaddedMatrix<double> a = with_spectrum(normal_values<double>(random, 90), random);
  check_same_for_any_threads(true, [&](Context& ctx) {
    PaddedMatrix<double> work = a;
    std::vector<double> w(90);
    B::eigh(ctx, work.view(), w.data());
    auto all = work.entries();
    all.insert(all.end(), w.begin(), w.end());
    return all;
  });
}

// --- memory and elements ----------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("memory: allocate, zero, upload, download", T, float, double, stored_index_t) {
  for (const index_t n : {index_t{1}, index_t{7}, index_t{100003}}) {
    Context ctx(3);
    typename B::Memory memory = B::memory(ctx);
    auto* p = reinterpret_cast<T*>(memory.allocate(static_cast<std::size_t>(n) * sizeof(T)));
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
    std::vector<T> host(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<T>(i % 1000 + 1);
    B::template upload<T>(ctx, host.data(), p, n);
    std::vector<T> back(host.size(), T(0));
    B::template download<T>(ctx, p, back.data(), n);
    CHECK(back == host);
    B::template zero<T>(ctx, p, n);
    B::template download<T>(ctx, p, back.data(), n);
    CHECK(back == std::vector<T>(host.size(), T(0)));
    B::template zero<T>(ctx, p, 0);
    B::template upload<T>(ctx, host.data(), p, 0);
    typename B::Memory(memory).deallocate(reinterpret_cast<std::byte*>(p));  // a copy gives it back as well
  }
}

TEST_CASE_TEMPLATE("copy, transpose, scale, add, add_wide, add_to_rows", T, float, double) {
  Random random(8);
  for (const auto& [rows, cols, padding] : shapes()) {
    for (const int threads : {1, 3}) {
      CAPTURE(rows);
      CAPTURE(cols);
      CAPTURE(padding);
      Context ctx(threads);
      const auto a = PaddedMatrix<T>(rows, cols, padding).fill(random);
      const auto old = PaddedMatrix<T>(rows, cols, 2 * padding).fill(random);

      PaddedMatrix<T> copied = old;
      B::template copy<T>(ctx, a.const_view(), copied.view());
      CHECK(same_bits(copied.entries(), a.entries()));
      CHECK(copied.padding_untouched());

      PaddedMatrix<T> turned(cols, rows, padding);
      B::template transpose<T>(ctx, a.const_view(), turned.view());
      bool right = true;
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < cols; ++j)
          right = right && turned(j, i) == a(i, j);
      CHECK(right);
      CHECK(turned.padding_untouched());

      PaddedMatrix<T> scaled = a;
      B::template scale<T>(ctx, T(-0.3), scaled.view());
      PaddedMatrix<T> sum = old;
      B::template add<T>(ctx, T(0.7), a.const_view(), sum.view());
      PaddedMatrix<double> wide(rows, cols, padding);
      wide.fill_with(1e9);
      B::template add_wide<T>(ctx, 0.7, a.const_view(), wide.view());
      const std::vector<T> v = normal_values<T>(random, cols);
      PaddedMatrix<T> shifted = a;
      B::template add_to_rows<T>(ctx, v.data(), shifted.view());
      right = true;
      for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < cols; ++j) {
          const long double x = a(i, j);
          const T added = v[static_cast<std::size_t>(j)];
          right = right && scaled(i, j) == T(-0.3) * a(i, j) &&
                  Tolerance<T>::sum(1, 1).holds(sum(i, j), old(i, j) + T(0.7) * x) &&
                  Tolerance<double>{0, 1e-15}.holds(wide(i, j), 1e9L + 0.7 * x) &&
                  shifted(i, j) == a(i, j) + added;
        }
      }
      CHECK(right);
      CHECK((scaled.padding_untouched() && sum.padding_untouched() && wide.padding_untouched() &&
             shifted.padding_untouched()));
    }
  }
}

TEST_CASE_TEMPLATE("widen and round_to: every pattern, ties, strides", S, bfloat16, float16) {
  PaddedMatrix<S> a(256, 256, 3);
  for (index_t i = 0; i < 256; ++i)
    for (index_t j = 0; j < 256; ++j)
      a.view()(i, j) = S::from_bits(static_cast<std::uint16_t>(i * 256 + j));
  for (const int threads : {1, 3}) {
    Context ctx(threads);
    for (const index_t padding : {index_t{0}, index_t{5}}) {
      PaddedMatrix<float> wide(256, 256, padding);
      B::template widen<S>(ctx, a.const_view(), wide.view());
      CHECK(wide.padding_untouched());
      int wrong = 0;
      for (index_t i = 0; i < 256; ++i) {
        for (index_t j = 0; j < 256; ++j) {
          const auto exact = static_cast<float>(a(i, j));
          wrong += is_nan(exact) ? !is_nan(wide(i, j)) : wide(i, j) != exact;
        }
      }
      CHECK(wrong == 0);
      // Some way to the next pattern, and half of it: a tie.
      for (const float part : {0.0F, 0.375F, 0.5F, 0.625F}) {
        PaddedMatrix<float> source = wide;
        for (index_t i = 0; i < 256; ++i) {
          for (index_t j = 0; j < 255; ++j) {
            const float x = wide(i, j);
            const float next = wide(i, j + 1);
            if (is_finite(x) && is_finite(next)) source.view()(i, j) = x + part * (next - x);
          }
        }
        PaddedMatrix<S> back(256, 256, 2 * padding);
        B::template round_to<S>(ctx, source.const_view(), back.view());
        CHECK(back.padding_untouched());
        for (index_t i = 0; i < 256; ++i) {
          for (index_t j = 0; j < 256; ++j) {
            const float y = source(i, j);
            wrong += is_nan(y) ? !is_nan(back(i, j)) : back(i, j).bits != S(y).bits;
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE_TEMPLATE("widen and round_to: lengths around those of vectors", S, bfloat16, float16) {
  Random random(23);
  Context ctx(2);
  for (const auto& [rows, cols, padding] : shapes()) {
    CAPTURE(rows);
    CAPTURE(cols);
    const PaddedMatrix<float> a = PaddedMatrix<float>(rows, cols, padding).fill(random);
    PaddedMatrix<S> low(rows, cols, padding + 1);
    B::template round_to<S>(ctx, a.const_view(), low.view());
    PaddedMatrix<float> back(rows, cols, padding + 2);
    B::template widen<S>(ctx, low.const_view(), back.view());
    bool right = true;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        right = right && low(i, j).bits == S(a(i, j)).bits && back(i, j) == static_cast<float>(low(i, j));
    CHECK(right);
    CHECK(low.padding_untouched());
    CHECK(back.padding_untouched());
  }
}

TEST_CASE_TEMPLATE("column_sums, squared_norm", T, float, double) {
  Random random(9);
  for (const auto& [rows, cols, padding] : shapes()) {
    CAPTURE(rows);
    CAPTURE(cols);
    Context ctx(2);
    const auto a = PaddedMatrix<T>(rows, cols, padding).fill(random);
    std::vector<T> sums = normal_values<T>(random, cols);
    const std::vector<T> before = sums;
    B::template column_sums<T>(ctx, a.const_view(), sums.data());
    long double squares = 0;
    bool right = true;
    for (index_t j = 0; j < cols; ++j) {
      const auto at = static_cast<std::size_t>(j);
      long double exact = before[at];
      for (index_t i = 0; i < rows; ++i) {
        exact += a(i, j);
        squares += static_cast<long double>(a(i, j)) * a(i, j);
      }
      // Sums run in double: for float only the last rounding counts.
      const double terms = std::is_same_v<T, float> ? 0 : static_cast<double>(rows);
      right = right && Tolerance<T>::sum(terms, 1).holds(sums[at], exact);
    }
    CHECK(right);
    CHECK(Tolerance<double>{0, 1e-13}.holds(B::template squared_norm<T>(ctx, a.const_view()), squares));
  }
  const auto wide = PaddedMatrix<T>(1, 100003).fill(random);
  const auto tall = PaddedMatrix<T>(5003, 37, 3).fill(random);
  check_same_for_any_threads(false, [&](Context& ctx) {
    std::vector<T> sums(37);
    B::template column_sums<T>(ctx, tall.const_view(), sums.data());
    std::vector<double> all(sums.begin(), sums.end());
    all.push_back(B::template squared_norm<T>(ctx, wide.const_view()));
    all.push_back(B::template squared_norm<T>(ctx, tall.const_view()));
    return all;
  });
}

TEST_CASE_TEMPLATE("squared_norm: sums in double, beyond the range of float", T, float, double) {
  Context ctx(2);
  PaddedMatrix<T> a(1, 3);
  a.fill_with(T(1e30));
  CHECK(Tolerance<float>::rounding().holds(B::template squared_norm<T>(ctx, a.const_view()), 3e60L));
}

TEST_CASE_TEMPLATE("first_nonfinite: the first, wherever it stands", T, float, double) {
  Random random(10);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T inf = std::numeric_limits<T>::infinity();
  for (const auto& [rows, cols, padding] : shapes()) {
    CAPTURE(rows);
    CAPTURE(cols);
    Context ctx(3);
    PaddedMatrix<T> a(rows, cols, padding);
    a.fill(random);
    if (rows * cols > 0) a.view()(0, 0) = std::numeric_limits<T>::max();
    CHECK(B::template first_nonfinite<T>(ctx, a.const_view()) == -1);
    const index_t size = rows * cols;
    for (const index_t at : {index_t{0}, size / 2, size / 3, size - 1}) {
      if (size == 0) continue;
      for (const T bad : {nan, -nan, inf, -inf}) {
        PaddedMatrix<T> b = a;
        b.view()(at / cols, at % cols) = bad;
        b.view()(rows - 1, cols - 1) = nan;
        CHECK(B::template first_nonfinite<T>(ctx, b.const_view()) == at);
      }
    }
  }
}

// --- fast transform -----------------------------------------------------------------------------------------------

/// Entry (p, q) of H = (I - 2/m 1 1^T) (x) H_b diag(signs).
template <class T>
long double transform_entry(index_t n, const std::vector<T>& signs, index_t p, index_t q) {
  index_t b = 1;
  while (n % (2 * b) == 0)
    b *= 2;
  const index_t m = n / b;
  int parity = 0;
  for (index_t bit = 1; bit < b; bit *= 2)
    parity += (p & bit) != 0 && (q & bit) != 0 ? 1 : 0;
  const long double hadamard = (parity % 2 == 0 ? 1.0L : -1.0L) / std::sqrt(static_cast<long double>(b));
  const long double mixing =
      m == 1 ? 1.0L : (p / b == q / b ? 1.0L : 0.0L) - 2.0L / static_cast<long double>(m);
  return mixing * hadamard * signs[static_cast<std::size_t>(q)];
}

TEST_CASE_TEMPLATE("hadamard: equals its matrix, inverts, keeps norms", T, float, double) {
  Random random(11);
  const bool slow = std::string(B::name()) == "reference";
  for (const index_t n : {1, 2, 3, 4, 6, 8, 16, 24, 96, 100, 128, 768, 1009, 3072, 4096}) {
    if (slow && n > 1009) continue;
    std::vector<T> signs(static_cast<std::size_t>(n));
    for (T& s : signs)
      s = random() % 2 == 0 ? T(1) : T(-1);
    for (const TransformSide side : {TransformSide::rows, TransformSide::columns}) {
      for (const index_t vectors : {index_t{0}, index_t{1}, index_t{3}, n > 200 ? index_t{5} : index_t{70}}) {
        CAPTURE(n);
        CAPTURE(vectors);
        CAPTURE(static_cast<int>(side));
        const bool along_rows = side == TransformSide::rows;
        const auto x = along_rows ? PaddedMatrix<T>(vectors, n, 3).fill(random)
                                  : PaddedMatrix<T>(n, vectors, 3).fill(random);
        const auto at = [&](const PaddedMatrix<T>& a, index_t vector, index_t i) {
          return along_rows ? a(vector, i) : a(i, vector);
        };
        Context ctx(2);
        PaddedMatrix<T> y = x;
        B::template hadamard<T>(ctx, signs.data(), false, side, y.view());
        CHECK(y.padding_untouched());
        PaddedMatrix<T> z = x;
        B::template hadamard<T>(ctx, signs.data(), true, side, z.view());
        const index_t step = n > 200 ? n / 37 : 1;  // large ones by sample
        bool right = true;
        for (index_t e = 0; e<vectors; e += n> 200 ? 2 : 1) {
          for (index_t p = 0; p < n; p += step) {
            long double forward = 0;
            long double inverse = 0;
            for (index_t q = 0; q < n; ++q) {
              forward += transform_entry(n, signs, p, q) * at(x, e, q);
              inverse += transform_entry(n, signs, q, p) * at(x, e, q);
            }
            const auto tolerance = Tolerance<T>::sum(12, 1);
            right = right && tolerance.holds(at(y, e, p), forward) && tolerance.holds(at(z, e, p), inverse);
          }
        }
        CHECK(right);
        B::template hadamard<T>(ctx, signs.data(), true, side, y.view());
        for (index_t e = 0; e < vectors; ++e)
          for (index_t i = 0; i < n; ++i)
            right = right && Tolerance<T>::sum(24, 1).holds(at(y, e, i), at(x, e, i));
        CHECK(right);
      }
    }
  }
}

TEST_CASE_TEMPLATE("hadamard: same bits for any number of threads", T, float, double) {
  Random random(12);
  const auto a = PaddedMatrix<T>(96, 200, 1).fill(random);
  const std::vector<T> signs(200, T(1));
  check_same_for_any_threads(false, [&](Context& ctx) {
    PaddedMatrix<T> y = a;
    B::template hadamard<T>(ctx, signs.data(), false, TransformSide::rows, y.view());
    B::template hadamard<T>(ctx, signs.data(), false, TransformSide::columns, y.view());
    return y.entries();
  });
}

// --- selection ------------------------------------------------------------------------------------------------------

/// All positions by falling |x|, NaN highest, ties by position.
template <class T>
std::vector<stored_index_t> positions_by_magnitude(const std::vector<T>& x) {
  std::vector<stored_index_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](stored_index_t i, stored_index_t j) {
    const long double a = std::fabs(static_cast<long double>(x[static_cast<std::size_t>(i)]));
    const long double b = std::fabs(static_cast<long double>(x[static_cast<std::size_t>(j)]));
    if (std::isnan(a) != std::isnan(b)) return std::isnan(a);
    if (!std::isnan(a) && a != b) return a > b;
    return i < j;
  };
  std::sort(order.begin(), order.end(), before);
  return order;
}

/// The first k of `order`, rising.
inline std::vector<stored_index_t> first_positions(const std::vector<stored_index_t>& order, index_t k) {
  std::vector<stored_index_t> first(order.begin(), order.begin() + k);
  std::sort(first.begin(), first.end());
  return first;
}

template <class T>
std::vector<stored_index_t> expected_top_k(const std::vector<T>& x, index_t k) {
  return first_positions(positions_by_magnitude(x), k);
}

template <class T>
void check_top_k(const char* kind, const std::vector<T>& x, std::vector<index_t> ks = {}) {
  const auto n = static_cast<index_t>(x.size());
  for (const index_t k : {index_t{0}, index_t{1}, n / 1000, n / 100, n / 50, n / 7, n / 2, n - 1, n})
    ks.push_back(k);
  ks.erase(std::remove_if(ks.begin(), ks.end(), [n](index_t k) { return k > n || k < 0; }), ks.end());
  const std::vector<stored_index_t> order = positions_by_magnitude(x);
  std::map<index_t, std::vector<stored_index_t>> expected;
  for (const index_t k : ks)
    expected[k] = first_positions(order, k);
  for (const int threads : {1, 2, 3}) {
    Context ctx(threads);
    for (const index_t k : ks) {
      CAPTURE(kind);
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(threads);
      // One more than k, which must stay as it is.
      std::vector<stored_index_t> index(static_cast<std::size_t>(k + 1), -7);
      std::vector<T> value(static_cast<std::size_t>(k + 1), T(-77.25));
      B::template top_k<T>(ctx, x.data(), n, k, index.data(), value.data());
      CHECK((index.back() == -7 && value.back() == T(-77.25)));
      index.pop_back();
      value.pop_back();
      CHECK(index == expected[k]);
      bool same = true;  // values with their bits: signs of zeros, NaN payloads
      for (std::size_t e = 0; e < value.size(); ++e)
        same = same && std::memcmp(&value[e], &x[static_cast<std::size_t>(index[e])], sizeof(T)) == 0;
      CHECK(same);
    }
  }
}

TEST_CASE_TEMPLATE("top_k: short inputs, ties, zeros, NaN, Inf, denormals", T, float, double) {
  using Limits = std::numeric_limits<T>;
  const T nan = Limits::quiet_NaN();
  const T inf = Limits::infinity();
  const T tiny = Limits::denorm_min();
  check_top_k<T>("empty", {});
  check_top_k<T>("one", {T(3)});
  check_top_k<T>("ties", {1, -1, 1, -1, 1, 1, -1}, {2, 3, 4, 5});
  check_top_k<T>("zeros", {T(-0.0), 0, T(-0.0), 0, 0}, {2, 3});
  check_top_k<T>(
      "mixed",
      {0, nan, inf, -inf, 5, -nan, tiny, -tiny, T(-0.0), -5, Limits::max(), Limits::lowest(), 2 * tiny},
      {2, 3, 4, 5, 6, 7, 8, 9, 10});
  check_top_k<T>("denormals", {tiny, 3 * tiny, -2 * tiny, 0, -3 * tiny, Limits::min()}, {2, 3, 4});
  Random random(13);
  for (const index_t n : {2, 3, 7, 31, 64, 65, 1000}) {
    std::vector<T> few = normal_values<T>(random, n);
    for (T& x : few)
      x = std::round(x);
    check_top_k<T>("few values", few);
    check_top_k<T>("normal", normal_values<T>(random, n));
  }
}

TEST_CASE_TEMPLATE("top_k: NaNs of any payload are equal, ties by position", T, float, double) {
  const auto nan = [](const char* payload) -> T {  // a conversion from double would lose it
    if constexpr (std::is_same_v<T, float>) {
      return std::nanf(payload);
    } else {
      return std::nan(payload);
    }
  };
  // Also where no whole block of 8 is left.
  std::vector<T> x(13, T(1));
  x[1] = nan("1");
  x[3] = -nan("5");
  x[9] = nan("77");
  x[12] = -nan("123");
  check_top_k<T>("payloads", x, {1, 2, 3, 4, 5});
  std::swap(x[1], x[12]);
  check_top_k<T>("larger ones first", x, {1, 2, 3, 4, 5});
}

TEST_CASE_TEMPLATE("top_k: long inputs of every kind", T, float, double) {
  Random random(14);
  const index_t n = std::string(B::name()) == "reference" ? 5003 : 200003;
  const auto filled = [&](auto&& f) {
    std::vector<T> x(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<T>(f(static_cast<double>(i)));
    return x;
  };
  std::normal_distribution<double> normal;
  std::student_t_distribution<double> heavy(1.5);
  const auto sign = [&] { return random() % 2 == 0 ? 1.0 : -1.0; };
  check_top_k("normal", filled([&](double) { return 1e-5 * normal(random); }));
  check_top_k("heavy", filled([&](double) { return heavy(random); }));
  check_top_k("rising", filled([](double i) { return i; }));
  check_top_k("falling", filled([&](double i) { return sign() * (1e6 - i); }));
  check_top_k("constant", filled([&](double) { return sign() * 0.5; }));
  check_top_k("zero", filled([&](double) { return sign() * 0.0; }));
  check_top_k("three values", filled([&](double) { return sign() * static_cast<double>(random() % 3); }));
  check_top_k("mostly zero", filled([&](double) { return random() % 150 == 0 ? normal(random) : 0.0; }));
  check_top_k("block of large",
              filled([&](double i) { return i > 1000 && i < 3000 ? 100 + i : normal(random); }));
  check_top_k("denormal", filled([&](double) {
                return normal(random) * 20 * static_cast<double>(std::numeric_limits<T>::denorm_min());
              }));
  check_top_k("close", filled([&](double) { return 1 + 1e-6 * static_cast<double>(random() % 16); }));
  check_top_k("with NaN and Inf", filled([&](double) {
                const auto die = random() % 40;
                return die == 0
                           ? sign() * std::numeric_limits<double>::quiet_NaN()
                           : (die == 1 ? sign() * std::numeric_limits<double>::infinity() : normal(random));
              }));
  // Large at every 64th place alone, where a sample by a fixed step would look, or never look.
  check_top_k("periodic", filled([&](double i) {
                return static_cast<index_t>(i) % 64 == 0 ? 100 + normal(random) : normal(random);
              }));
}

TEST_CASE_TEMPLATE("gather and scatter", T, float, double) {
  Random random(15);
  for (const index_t k : {0, 1, 5, 40001}) {
    const index_t n = 3 * k + 1;
    Context ctx(2);
    const std::vector<T> x = normal_values<T>(random, n);
    std::vector<stored_index_t> index;
    for (index_t e = 0; e < k; ++e)
      index.push_back(static_cast<stored_index_t>(3 * e + static_cast<index_t>(random() % 3)));
    std::vector<T> value(static_cast<std::size_t>(k));
    B::template gather<T>(ctx, x.data(), index.data(), k, value.data());
    std::vector<T> target = normal_values<T>(random, n);
    std::vector<T> expected = target;
    bool right = true;
    for (std::size_t e = 0; e < index.size(); ++e) {
      right = right && value[e] == x[static_cast<std::size_t>(index[e])];
      expected[static_cast<std::size_t>(index[e])] = value[e];
    }
    CHECK(right);
    B::template scatter<T>(ctx, value.data(), index.data(), k, target.data());
    CHECK(target == expected);
  }
}

// --- entries and rows -------------------------------------------------------------------------------------------------

/// k positions of a rows x cols matrix, rising.
inline std::vector<stored_index_t> random_support(Random& random, index_t size, index_t k) {
  std::vector<stored_index_t> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(static_cast<std::size_t>(k));
  std::sort(all.begin(), all.end());
  return all;
}

struct SparseCase {
  index_t tokens, rows, cols, k;
};
inline std::vector<SparseCase> sparse_cases() {
  return {{0, 3, 4, 5},       {5, 3, 4, 0},       {1, 1, 1, 1},       {7, 5, 3, 15},     {130, 17, 40, 3},
          {129, 40, 17, 200}, {300, 33, 65, 900}, {64, 65, 33, 2145}, {257, 2, 500, 700}};
}

TEST_CASE_TEMPLATE("sampled_product", T, float, double) {
  Random random(16);
  for (const auto& [tokens, rows, cols, k] : sparse_cases()) {
    CAPTURE(tokens);
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(k);
    const auto a = PaddedMatrix<T>(tokens, rows, 3).fill(random);
    const auto b = PaddedMatrix<T>(tokens, cols, 1).fill(random);
    const auto index = random_support(random, rows * cols, k);
    const std::vector<T> before = normal_values<T>(random, k);
    const auto run = [&, cols = cols, k = k](Context& ctx) {
      std::vector<T> value = before;
      B::template sampled_product<T>(ctx, a.const_view(), b.const_view(), index.data(), k, cols,
                                     value.data());
      return value;
    };
    Context ctx(2);
    const std::vector<T> value = run(ctx);
    bool right = true;
    for (std::size_t e = 0; e < index.size(); ++e) {
      long double exact = before[e];
      for (index_t t = 0; t < tokens; ++t)
        exact += static_cast<long double>(a(t, index[e] / cols)) * b(t, index[e] % cols);
      right = right && Tolerance<T>::sum(static_cast<double>(tokens), 8).holds(value[e], exact);
    }
    CHECK(right);
    check_same_for_any_threads(false, run);
  }
}

TEST_CASE_TEMPLATE("expand_rows", T, float, double) {
  Random random(17);
  for (const auto& [unused, rows, cols, k] : sparse_cases()) {
    for (const index_t width : {0, 1, 5, 16, 33, 64, 100}) {
      CAPTURE(rows);
      CAPTURE(cols);
      CAPTURE(k);
      CAPTURE(width);
      const auto f = PaddedMatrix<T>(cols, width, 3).fill(random);
      const auto index = random_support(random, rows * cols, k);
      const std::vector<T> value = normal_values<T>(random, k);
      std::vector<stored_index_t> row, col;
      for (const stored_index_t i : index) {
        row.push_back(static_cast<stored_index_t>(i / cols));
        col.push_back(static_cast<stored_index_t>(i % cols));
      }
      const auto before = PaddedMatrix<T>(rows, width, 2).fill(random);
      bool untouched = true;
      const auto run = [&, k = k](Context& ctx) {
        PaddedMatrix<T> m = before;
        B::template expand_rows<T>(ctx, row.data(), col.data(), value.data(), k, f.const_view(), m.view());
        untouched = untouched && m.padding_untouched();
        return m.entries();
      };
      Context ctx(2);
      const std::vector<T> m = run(ctx);
      std::vector<long double> exact;
      for (const T x : before.entries())
        exact.push_back(x);
      for (std::size_t e = 0; e < index.size(); ++e)
        for (index_t j = 0; j < width; ++j)
          exact[static_cast<std::size_t>(row[e] * width + j)] +=
              static_cast<long double>(value[e]) * f(col[e], j);
      bool right = true;
      for (std::size_t i = 0; i < m.size(); ++i)
        right = right && Tolerance<T>::sum(static_cast<double>(cols), 8).holds(m[i], exact[i]);
      CHECK(right);
      check_same_for_any_threads(false, run);
      CHECK(untouched);
    }
  }
}

TEST_CASE_TEMPLATE("scatter_add, gather_rows, add_columns", T, float, double) {
  Random random(18);
  for (const auto& [unused, rows, cols, k] : sparse_cases()) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(k);
    Context ctx(3);
    const auto before = PaddedMatrix<T>(rows, cols, 2).fill(random);
    const auto index = random_support(random, rows * cols, k);
    const std::vector<T> value = normal_values<T>(random, k);
    std::vector<stored_index_t> row, col;
    std::vector<T> expected = before.entries();
    for (std::size_t e = 0; e < index.size(); ++e) {
      row.push_back(static_cast<stored_index_t>(index[e] / cols));
      col.push_back(static_cast<stored_index_t>(index[e] % cols));
      expected[static_cast<std::size_t>(index[e])] += value[e];
    }
    PaddedMatrix<T> m = before;
    B::template scatter_add<T>(ctx, row.data(), col.data(), value.data(), k, m.view());
    CHECK(m.entries() == expected);
    CHECK(m.padding_untouched());

    const index_t used = rows / 2 + 1;
    const auto row_list = random_support(random, rows, used);
    PaddedMatrix<T> gathered(used, cols, 1);
    B::template gather_rows<T>(ctx, before.const_view(), row_list.data(), used, gathered.view());
    bool right = true;
    for (index_t s = 0; s < used; ++s) {
      const index_t i = row_list[static_cast<std::size_t>(s)];
      for (index_t j = 0; j < cols; ++j)
        right = right && gathered(s, j) == before(i, j);
    }
    CHECK(right);
    CHECK(gathered.padding_untouched());

    const index_t used_cols = cols / 3 + 1;
    const auto col_list = random_support(random, cols, used_cols);
    const auto p = PaddedMatrix<T>(used_cols, rows, 1).fill(random);
    PaddedMatrix<T> n = before;
    B::template add_columns<T>(ctx, p.const_view(), col_list.data(), n.view());
    expected = before.entries();
    for (index_t s = 0; s < used_cols; ++s)
      for (index_t i = 0; i < rows; ++i)
        expected[static_cast<std::size_t>(i * cols + col_list[static_cast<std::size_t>(s)])] += p(s, i);
    CHECK(n.entries() == expected);
    CHECK(n.padding_untouched());
  }
}

TEST_CASE("group_support: by rows and by columns") {
  Random random(19);
  for (const auto& [unused, rows, cols, k] : sparse_cases()) {
    for (const bool columns : {false, true}) {
      CAPTURE(rows);
      CAPTURE(cols);
      CAPTURE(k);
      CAPTURE(columns);
      Context ctx(2);
      const auto index = random_support(random, rows * cols, k);
      std::vector<std::tuple<index_t, index_t, stored_index_t>> expected;  // (group, other, entry)
      for (std::size_t e = 0; e < index.size(); ++e) {
        const index_t i = index[e] / cols;
        const index_t j = index[e] % cols;
        expected.emplace_back(columns ? j : i, columns ? i : j, static_cast<stored_index_t>(e));
      }
      std::sort(expected.begin(), expected.end());
      const auto size = static_cast<std::size_t>(k);
      std::vector<stored_index_t> group_of(size), other(size), order(size), list(size);
      const index_t groups = B::group_support(ctx, index.data(), k, rows, cols, columns, group_of.data(),
                                              other.data(), order.data(), list.data());
      index_t seen = 0;
      bool right = true;
      for (std::size_t p = 0; p < size; ++p) {
        const auto [group, rest, e] = expected[p];
        if (p == 0 || std::get<0>(expected[p - 1]) != group) ++seen;
        right = right && seen <= groups && group_of[p] == seen - 1 && other[p] == rest && order[p] == e &&
                list[static_cast<std::size_t>(group_of[p])] == group;
      }
      CHECK(right);
      CHECK(groups == seen);
    }
  }
}

TEST_CASE_TEMPLATE("locate_entries and insert_entries: a support merged into a state", T, float, double) {
  Random random(20);
  for (const auto& [held_count, k] : std::vector<std::array<index_t, 2>>{{0, 0},
                                                                         {0, 5},
                                                                         {5, 0},
                                                                         {1, 1},
                                                                         {100, 40},
                                                                         {300, 299},
                                                                         {7, 200},
                                                                         {900, 200},
                                                                         {700, 701},
                                                                         {40, 2}}) {
    for (const bool counted : {false, true}) {
      CAPTURE(held_count);
      CAPTURE(k);
      Context ctx(2);
      const index_t positions = held_count < 500 ? 500 : 1000;
      const auto index = random_support(random, positions, k);
      const auto held = random_support(random, positions, held_count);
      std::vector<stored_index_t> united;
      std::set_union(index.begin(), index.end(), held.begin(), held.end(), std::back_inserter(united));
      std::vector<stored_index_t> place(static_cast<std::size_t>(k)), added(static_cast<std::size_t>(k));
      const index_t q =
          B::locate_entries(ctx, index.data(), k, held.data(), held_count, place.data(), added.data());
      REQUIRE(static_cast<std::size_t>(held_count + q) == united.size());
      std::vector<stored_index_t> now = held;
      now.resize(united.size());
      std::vector<T> m(united.size(), T(9)), v(united.size(), T(9));
      std::vector<std::int32_t> count(united.size(), 9);
      for (std::size_t s = 0; s < held.size(); ++s) {
        m[s] = static_cast<T>(held[s] + 1);
        v[s] = static_cast<T>(held[s] + 2);
        count[s] = held[s] + 3;
      }
      B::template insert_entries<T>(ctx, index.data(), place.data(), added.data(), q, now.data(), held_count,
                                    m.data(), v.data(), counted ? count.data() : nullptr);
      CHECK(now == united);
      bool right = true;
      for (std::size_t e = 0; e < index.size(); ++e)
        right = right && united[static_cast<std::size_t>(place[e])] == index[e];
      for (std::size_t s = 0; s < united.size(); ++s) {
        const bool old = std::binary_search(held.begin(), held.end(), united[s]);
        right = right && m[s] == (old ? static_cast<T>(united[s] + 1) : T(0)) &&
                v[s] == (old ? static_cast<T>(united[s] + 2) : T(0)) &&
                (!counted || count[s] == (old ? united[s] + 3 : 0));
      }
      CHECK(right);
    }
  }
}

// --- Adam ---------------------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("adam: all forms against the formula, over several steps", T, float, double) {
  Random random(21);
  for (const index_t k : {0, 1, 3, 255, 257, 5000}) {
    for (const bool scattered : {false, true}) {
      for (const bool counted : {false, true}) {
        for (const bool eps_uncorrected : {false, true}) {
          CAPTURE(k);
          CAPTURE(scattered);
          CAPTURE(counted);
          CAPTURE(eps_uncorrected);
          const index_t size = scattered ? 2 * k + 1 : k;
          std::vector<T> m(static_cast<std::size_t>(size), T(0)), v(m);
          std::vector<std::int32_t> count(m.size(), 0);
          for (std::size_t s = 0; s < count.size(); ++s)
            count[s] = s % 7 == 3 ? 5000 : static_cast<std::int32_t>(s % 5);
          std::vector<long double> exact_m(m.size(), 0), exact_v(m.size(), 0);
          std::vector<std::int32_t> exact_count = count;
          AdamCoefficients c;
          c.learning_rate = 2e-3;
          c.grad_scale = 0.25;
          c.eps = 1e-6;
          c.eps_uncorrected = eps_uncorrected;
          for (int step = 1; step <= 4; ++step) {
            c.step = step;
            const std::vector<T> g = normal_values<T>(random, k);
            const auto entry_of = random_support(random, size, k);
            std::vector<T> d(static_cast<std::size_t>(k), T(5));
            Context ctx(step % 3 + 1);
            B::template adam<T>(ctx, c, g.data(), scattered ? entry_of.data() : nullptr, k, m.data(),
                                v.data(), counted ? count.data() : nullptr, d.data());
            bool right = true;
            for (std::size_t e = 0; e < g.size(); ++e) {
              const std::size_t s = scattered ? static_cast<std::size_t>(entry_of[e]) : e;
              const long double x = static_cast<long double>(g[e]) * c.grad_scale;
              const int t = counted ? ++exact_count[s] : step;
              exact_m[s] += (1 - static_cast<long double>(c.beta1)) * (x - exact_m[s]);
              exact_v[s] += (1 - static_cast<long double>(c.beta2)) * (x * x - exact_v[s]);
              const long double correction1 = 1 - std::pow(static_cast<long double>(c.beta1), t);
              const long double correction2 = 1 - std::pow(static_cast<long double>(c.beta2), t);
              const long double denominator = eps_uncorrected
                                                  ? (std::sqrt(exact_v[s]) + c.eps) / std::sqrt(correction2)
                                                  : std::sqrt(exact_v[s] / correction2) + c.eps;
              const long double exact = -c.learning_rate * (exact_m[s] / correction1) / denominator;
              // 1 - beta^t loses digits in the moments' small differences: a few units of the largest term.
              right = right &&
                      Tolerance<T>{8 * Tolerance<T>::unit, 16 * Tolerance<T>::unit}.holds(m[s], exact_m[s]) &&
                      Tolerance<T>{0, 16 * Tolerance<T>::unit}.holds(v[s], exact_v[s]) &&
                      Tolerance<T>{c.learning_rate * 64 * Tolerance<T>::unit, 32 * Tolerance<T>::unit}.holds(
                          d[e], exact);
            }
            CHECK(right);
            if (counted) CHECK(count == exact_count);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("adam: same bits for any number of threads", T, float, double) {
  Random random(22);
  const index_t k = 20011;
  const std::vector<T> g = normal_values<T>(random, k);
  const auto entry_of = random_support(random, 2 * k, k);
  check_same_for_any_threads(false, [&](Context& ctx) {
    std::vector<T> m(static_cast<std::size_t>(2 * k), T(0.1)), v(m), d(static_cast<std::size_t>(k));
    std::vector<std::int32_t> count(m.size(), 3);
    AdamCoefficients c;
    c.learning_rate = 1e-3;
    B::template adam<T>(ctx, c, g.data(), entry_of.data(), k, m.data(), v.data(), count.data(), d.data());
    B::template adam<T>(ctx, c, g.data(), nullptr, k, m.data(), v.data(), nullptr, d.data());
    d.insert(d.end(), m.begin(), m.end());
    d.insert(d.end(), v.begin(), v.end());
    return d;
  });
}

// --- contexts -------------------------------------------------------------------------------------------------------------

TEST_CASE("several contexts at once, from several threads") {
  Random random(23);
  const auto a = PaddedMatrix<float>(200, 90).fill(random);
  const auto run = [&](Context& ctx) {
    PaddedMatrix<float> c(200, 200);
    B::template gemm<float>(ctx, Op::none, Op::transpose, 1.0F, a.const_view(), a.const_view(), 0.0F,
                            c.view());
    std::vector<stored_index_t> index(700);
    std::vector<float> value(700);
    B::template top_k<float>(ctx, c.view().data, 40000, 700, index.data(), value.data());
    value.insert(value.end(), index.begin(), index.end());
    return value;
  };
  Context own(2, true);
  const std::vector<float> expected = run(own);
  std::array<bool, 4> same{};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      Context ctx(static_cast<int>(t % 3) + 1, true);
      bool all = true;
      for (int repeat = 0; repeat < 10; ++repeat)
        all = all && same_bits(run(ctx), expected);
      same[t] = all;
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  for (const bool s : same)
    CHECK(s);
}

TEST_CASE_TEMPLATE("scratch_bound covers what the primitives take", T, float, double) {
  Random random(24);
  for (const int threads : {1, 3}) {
    const index_t rows = 150;
    const index_t cols = 1100;
    const index_t k = 9000;
    const auto a = PaddedMatrix<T>(rows, cols).fill(random);
    const auto index = random_support(random, rows * cols, k);
    std::vector<stored_index_t> group(9000), other(9000), order(9000), list(9000), found(rows * cols);
    std::vector<T> value(static_cast<std::size_t>(rows * cols));
    Context ctx(threads);
    const auto bounded = [&](const char* what, auto&& f) {
      Context own(threads);
      f(own);
      CAPTURE(what);
      CHECK(own.scratch().bytes() <= B::template scratch_bound<T>(own, cols * cols));
    };
    bounded("top_k", [&](Context& c) {
      B::template top_k<T>(c, a.view().data, rows * cols, rows * cols / 3, found.data(), value.data());
      B::template top_k<T>(c, a.view().data, rows * cols, rows * cols / 9, found.data(), value.data());
    });
    bounded("gemm", [&](Context& c) {
      PaddedMatrix<T> product(cols, cols);
      B::template gemm<T>(c, Op::transpose, Op::none, T(1), a.const_view(), a.const_view(), T(0),
                          product.view());
    });
    bounded("gram", [&](Context& c) {
      PaddedMatrix<double> g(cols, cols);
      B::template gram<T>(c, Op::transpose, a.const_view(), 1.0, g.view());
    });
    bounded("group_support", [&](Context& c) {
      B::group_support(c, index.data(), k, rows, cols, true, group.data(), other.data(), order.data(),
                       list.data());
    });
    bounded("sampled_product", [&](Context& c) {
      const auto x = PaddedMatrix<T>(70, rows).fill(random);
      const auto y = PaddedMatrix<T>(70, cols).fill(random);
      B::template sampled_product<T>(c, x.const_view(), y.const_view(), index.data(), k, cols, value.data());
    });
    bounded("hadamard", [&](Context& c) {
      const std::vector<T> signs(1100, T(1));
      PaddedMatrix<T> b = a;
      B::template hadamard<T>(c, signs.data(), false, TransformSide::rows, b.view());
      B::template hadamard<T>(c, signs.data(), false, TransformSide::columns, b.view());
    });
  }
}

}  // namespace sparsegrad::test
