// Test data for bases: random matrices, planted stacks, and plain loops to compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "sparsegrad/backend/cpu.hpp"
#include "sparsegrad/backend/cpu_blas.hpp"
#include "sparsegrad/backend/reference.hpp"
#include "sparsegrad/core/random.hpp"
#include "sparsegrad/core/view.hpp"

namespace sparsegrad::test {

/// One combination of storage type and backend.
template <class T_, class B_>
struct Setup {
  using T = T_;
  using B = B_;
  static constexpr double eps = sizeof(T) == 4 ? 1.2e-7 : 2.3e-16;
};
#define SPARSEGRAD_TEST_SETUPS                                         \
  sparsegrad::test::Setup<float, sparsegrad::backend::Reference>,      \
      sparsegrad::test::Setup<double, sparsegrad::backend::Reference>, \
      sparsegrad::test::Setup<float, sparsegrad::backend::Cpu>,        \
      sparsegrad::test::Setup<double, sparsegrad::backend::Cpu>,       \
      sparsegrad::test::Setup<float, sparsegrad::backend::CpuBlas>,    \
      sparsegrad::test::Setup<double, sparsegrad::backend::CpuBlas>

/// Owned row-major matrix in host memory.
template <class T>
struct Matrix {
  index_t rows = 0;
  index_t cols = 0;
  std::vector<T> data;
  Matrix() = default;
  Matrix(index_t r, index_t c, T value = T(0))
      : rows(r), cols(c), data(static_cast<std::size_t>(r * c), value) {}
  T& operator()(index_t i, index_t j) { return data[static_cast<std::size_t>(i * cols + j)]; }
  const T& operator()(index_t i, index_t j) const { return data[static_cast<std::size_t>(i * cols + j)]; }
  MatrixView<T> view() { return MatrixView<T>(data.data(), rows, cols); }
  MatrixView<const T> view() const { return MatrixView<const T>(data.data(), rows, cols); }
};

template <class T>
Matrix<T> random_matrix(index_t rows, index_t cols, std::uint64_t seed) {
  Matrix<T> a(rows, cols);
  for (std::size_t e = 0; e < a.data.size(); ++e)
    a.data[e] = static_cast<T>(detail::random_normal(seed, e));
  return a;
}

template <class A>
auto copied(const A& view) {
  Matrix<std::remove_const_t<std::remove_reference_t<decltype(view(0, 0))>>> m(view.rows, view.cols);
  for (index_t i = 0; i < m.rows; ++i)
    for (index_t j = 0; j < m.cols; ++j)
      m(i, j) = view(i, j);
  return m;
}

template <class A>
Matrix<double> wide(const A& a) {
  Matrix<double> m(a.rows, a.cols);
  for (index_t i = 0; i < m.rows; ++i)
    for (index_t j = 0; j < m.cols; ++j)
      m(i, j) = static_cast<double>(a(i, j));
  return m;
}

/// op(A) op(B) in double by plain loops.
template <class A, class B>
Matrix<double> product(const A& a, const B& b, bool a_transposed = false, bool b_transposed = false) {
  const index_t depth = a_transposed ? a.rows : a.cols;
  Matrix<double> c(a_transposed ? a.cols : a.rows, b_transposed ? b.rows : b.cols);
  for (index_t i = 0; i < c.rows; ++i)
    for (index_t l = 0; l < depth; ++l)
      for (index_t j = 0; j < c.cols; ++j)
        c(i, j) += static_cast<double>(a_transposed ? a(l, i) : a(i, l)) *
                   static_cast<double>(b_transposed ? b(j, l) : b(l, j));
  return c;
}

template <class A, class B>
double max_difference(const A& a, const B& b) {
  if (a.rows != b.rows || a.cols != b.cols) return INFINITY;
  double worst = 0;
  for (index_t i = 0; i < a.rows; ++i) {
    for (index_t j = 0; j < a.cols; ++j) {
      const double d = std::abs(static_cast<double>(a(i, j)) - static_cast<double>(b(i, j)));
      worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    }
  }
  return worst;
}

template <class A>
double energy_of(const A& a) {
  double sum = 0;
  for (index_t i = 0; i < a.rows; ++i)
    for (index_t j = 0; j < a.cols; ++j)
      sum += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
  return sum;
}

/// Columns [n, r]: modified Gram-Schmidt, twice, of normal numbers.
inline Matrix<double> orthonormal_columns(index_t n, index_t r, std::uint64_t seed) {
  Matrix<double> u = random_matrix<double>(n, r, seed);
  for (int pass = 0; pass < 2; ++pass) {
    for (index_t j = 0; j < r; ++j) {
      for (index_t e = 0; e < j; ++e) {
        double dot = 0;
        for (index_t i = 0; i < n; ++i)
          dot += u(i, e) * u(i, j);
        for (index_t i = 0; i < n; ++i)
          u(i, j) -= dot * u(i, e);
      }
      double norm = 0;
      for (index_t i = 0; i < n; ++i)
        norm += u(i, j) * u(i, j);
      for (index_t i = 0; i < n; ++i)
        u(i, j) /= std::sqrt(norm);
    }
  }
  return u;
}

/// G_i = V C_i U^T, i < n, V [out, rank] and U [in, rank] orthonormal, C_i with one entry a row and column, at a
/// random permutation, of size decay^(row): the Gram matrices of the cores are diagonal, so V and U are the
/// HOSVD's own, and each core has `rank` entries.
template <class T>
struct PlantedStack {
  Matrix<double> v;
  Matrix<double> u;
  std::vector<Matrix<T>> gradients;
};

template <class T>
PlantedStack<T> planted_stack(index_t n, index_t out, index_t in, index_t rank, double decay,
                              std::uint64_t seed) {
  PlantedStack<T> stack;
  stack.v = orthonormal_columns(out, rank, seed + 100);
  stack.u = orthonormal_columns(in, rank, seed + 200);
  for (index_t g = 0; g < n; ++g) {
    std::vector<index_t> place(static_cast<std::size_t>(rank));
    std::iota(place.begin(), place.end(), index_t{0});
    // Mostly the identity permutation, so that both sides' spectra decay.
    if (rank > 1)
      std::swap(place[static_cast<std::size_t>(g % rank)], place[static_cast<std::size_t>((g + 1) % rank)]);
    Matrix<double> core(rank, rank);
    for (index_t i = 0; i < rank; ++i) {
      const double size = 1 + 0.3 * detail::random_uniform(seed, static_cast<std::uint64_t>(g * rank + i));
      core(i, place[static_cast<std::size_t>(i)]) = size * std::pow(decay, static_cast<double>(i));
    }
    const Matrix<double> gradient = product(product(stack.v, core), stack.u, false, true);
    Matrix<T> stored(out, in);
    for (std::size_t e = 0; e < stored.data.size(); ++e)
      stored.data[e] = static_cast<T>(gradient.data[e]);
    stack.gradients.push_back(std::move(stored));
  }
  return stack;
}

/// The text of the exception E that f throws, "" when it throws none.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace sparsegrad::test
