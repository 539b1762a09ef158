// Plain-loop oracle of a layer's step, in double, written from the formulas alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace oracle {

/// Row-major matrix with bounds that are easy to read in a debugger.
struct Matrix {
  int rows = 0;
  int cols = 0;
  std::vector<double> data;

  Matrix() = default;
  Matrix(int r, int c) : rows(r), cols(c), data(static_cast<std::size_t>(r) * static_cast<std::size_t>(c)) {}
  double& operator()(int i, int j) { return data[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(int i, int j) const { return data[static_cast<std::size_t>(i * cols + j)]; }
};

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (int i = 0; i < a.rows; ++i)
    for (int l = 0; l < a.cols; ++l)
      for (int j = 0; j < b.cols; ++j)
        c(i, j) += a(i, l) * b(l, j);
  return c;
}

inline Matrix transposed(const Matrix& a) {
  Matrix c(a.cols, a.rows);
  for (int i = 0; i < a.rows; ++i)
    for (int j = 0; j < a.cols; ++j)
      c(j, i) = a(i, j);
  return c;
}

inline Matrix sum(const Matrix& a, const Matrix& b, double factor = 1) {
  Matrix c = a;
  for (std::size_t e = 0; e < c.data.size(); ++e)
    c.data[e] += factor * b.data[e];
  return c;
}

/// Numbers in [-1, 1) from a small generator of its own.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2654435761U + 12345) {}
  double next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<double>(state_ >> 11) / 4503599627370496.0 - 1;
  }
  Matrix matrix(int rows, int cols, double scale = 1) {
    Matrix m(rows, cols);
    for (double& x : m.data)
      x = scale * next();
    return m;
  }
  /// n x r with orthonormal columns, by Gram-Schmidt done twice.
  Matrix orthonormal(int n, int r) {
    Matrix q = matrix(n, r);
    for (int c = 0; c < r; ++c) {
      for (int pass = 0; pass < 2; ++pass) {
        for (int before = 0; before < c; ++before) {
          double dot = 0;
          for (int i = 0; i < n; ++i)
            dot += q(i, c) * q(i, before);
          for (int i = 0; i < n; ++i)
            q(i, c) -= dot * q(i, before);
        }
        double norm = 0;
        for (int i = 0; i < n; ++i)
          norm += q(i, c) * q(i, c);
        norm = std::sqrt(norm);
        for (int i = 0; i < n; ++i)
          q(i, c) /= norm;
      }
    }
    return q;
  }

 private:
  std::uint64_t state_;
};

/// Keeps the k entries of largest magnitude (lowest position first among equals), zero elsewhere.
inline Matrix keep_top(const Matrix& g, int k) {
  std::vector<int> order(g.data.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return std::abs(g.data[static_cast<std::size_t>(a)]) > std::abs(g.data[static_cast<std::size_t>(b)]);
  });
  Matrix s(g.rows, g.cols);
  for (int e = 0; e < k; ++e) {
    const auto i = static_cast<std::size_t>(order[static_cast<std::size_t>(e)]);
    s.data[i] = g.data[i];
  }
  return s;
}

}  // namespace oracle
