// The symmetric eigenproblem in loops of C++ alone, for a host backend without a library of linear
// algebra.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "../../core/error.hpp"
#include "../../core/view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// The primitive eigh of the contract (core/backend.hpp), serial: Householder reflections to
/// tridiagonal form, then QR steps with implicit shifts by Wilkinson (Golub and Van Loan, Matrix
/// Computations, sections 8.3.1 to 8.3.5).
class PlainEigh {
 public:
  /// Rows of A = orthonormal eigenvectors of the symmetric A (lower triangle), w descending. Throws
  /// Error where the steps do not converge, as with NaN.
  static void run(MatrixView<double> a, double* w) {
    const index_t n = a.rows;
    if (n == 0) return;
    PlainEigh problem(a);
    problem.tridiagonalize(a);
    problem.iterate();
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](index_t x, index_t y) { return problem.diagonal(x) > problem.diagonal(y); });
    for (index_t i = 0; i < n; ++i) {
      const index_t from = order[static_cast<std::size_t>(i)];
      w[i] = std::ldexp(problem.diagonal(from), problem.exponent_);
      std::copy(problem.row(from), problem.row(from) + n, a.row(i));
    }
  }

 private:
  /// Scales A by a power of two, so that squares of its numbers stay in the range of double, and
  /// makes it symmetric.
  explicit PlainEigh(MatrixView<double> a)
      : n_(a.rows),
        q_(static_cast<std::size_t>(n_ * n_)),
        diagonal_(static_cast<std::size_t>(n_)),
        beside_(static_cast<std::size_t>(n_)) {
    double largest = 0;
    for (index_t i = 0; i < n_; ++i)
      for (index_t j = 0; j <= i; ++j)
        largest = (std::max)(largest, std::abs(a(i, j)));
    exponent_ = largest > 0 ? std::ilogb(largest) : 0;
    for (index_t i = 0; i < n_; ++i)
      for (index_t j = 0; j <= i; ++j)
        a(i, j) = a(j, i) = std::ldexp(a(i, j), -exponent_);
    for (index_t i = 0; i < n_; ++i)
      row(i)[i] = 1;
  }

  double* row(index_t i) { return q_.data() + i * n_; }
  double& diagonal(index_t i) { return diagonal_[static_cast<std::size_t>(i)]; }
  double& beside(index_t i) { return beside_[static_cast<std::size_t>(i)]; }  // T(i, i + 1)

  /// A = Q^T T Q with T tridiagonal. A's memory is used up.
  void tridiagonalize(MatrixView<double> a) {
    std::vector<double> reflector(static_cast<std::size_t>(n_));
    std::vector<double> product(static_cast<std::size_t>(n_));
    double* v = reflector.data();
    double* p = product.data();
    for (index_t k = 0; k + 2 < n_; ++k) {
      const index_t first = k + 1;
      double below = 0;
      for (index_t i = first + 1; i < n_; ++i)
        below += a(i, k) * a(i, k);
      if (below == 0) continue;
      const double norm = std::sqrt(below + a(first, k) * a(first, k));
      const double head = a(first, k) + (a(first, k) < 0 ? -norm : norm);
      const double length = std::sqrt(below + head * head);
      v[first] = head / length;
      for (index_t i = first + 1; i < n_; ++i)
        v[i] = a(i, k) / length;
      a(first, k) = a(first, k) < 0 ? norm : -norm;
      // With H = I - 2 v v^T: H A H = A - v p^T - p v^T, p = 2 A v - 2 (v^T A v) v.
      double along = 0;
      for (index_t i = first; i < n_; ++i) {
        double sum = 0;
        for (index_t j = first; j < n_; ++j)
          sum += a(i, j) * v[j];
        p[i] = 2 * sum;
        along += v[i] * sum;
      }
      for (index_t i = first; i < n_; ++i)
        p[i] -= 2 * along * v[i];
      for (index_t i = first; i < n_; ++i)
        for (index_t j = first; j < n_; ++j)
          a(i, j) -= v[i] * p[j] + p[i] * v[j];
      std::fill(p, p + n_, 0.0);  // now v^T Q
      for (index_t i = first; i < n_; ++i)
        for (index_t j = 0; j < n_; ++j)
          p[j] += v[i] * row(i)[j];
      for (index_t i = first; i < n_; ++i)
        for (index_t j = 0; j < n_; ++j)
          row(i)[j] -= 2 * v[i] * p[j];
    }
    for (index_t i = 0; i < n_; ++i) {
      diagonal(i) = a(i, i);
      beside(i) = i + 1 < n_ ? a(i + 1, i) : 0.0;
    }
  }

  /// QR steps on the last block that is not yet diagonal, until there is none.
  void iterate() {
    constexpr double eps = std::numeric_limits<double>::epsilon();
    index_t steps = 0;
    for (index_t last = n_ - 1; last > 0;) {
      for (index_t i = 0; i < last; ++i) {
        if (std::abs(beside(i)) <= eps * (std::abs(diagonal(i)) + std::abs(diagonal(i + 1)) + eps))
          beside(i) = 0;
      }
      if (beside(last - 1) == 0) {
        --last;
        continue;
      }
      index_t first = last - 1;
      while (first > 0 && beside(first - 1) != 0)
        --first;
      if (++steps > 60 * n_) {
        throw Error("the symmetric eigenproblem of order " + std::to_string(n_) + " did not converge");
      }
      step(first, last);
    }
  }

  /// One QR step on rows and columns first .. last of T; Q's rows turn with them.
  void step(index_t first, index_t last) {
    const double half = (diagonal(last - 1) - diagonal(last)) / 2;
    const double corner = beside(last - 1);
    const double root = std::hypot(half, corner);
    const double shift = diagonal(last) - corner / (half + (half < 0 ? -root : root)) * corner;
    double x = diagonal(first) - shift;
    double z = beside(first);
    for (index_t k = first; k < last; ++k) {
      const double r = std::hypot(x, z);
      const double c = r == 0 ? 1.0 : x / r;
      const double s = r == 0 ? 0.0 : z / r;
      if (k > first) beside(k - 1) = r;
      const double upper = diagonal(k);
      const double lower = diagonal(k + 1);
      const double between = beside(k);
      diagonal(k) = c * c * upper + 2 * c * s * between + s * s * lower;
      diagonal(k + 1) = s * s * upper - 2 * c * s * between + c * c * lower;
      beside(k) = c * s * (lower - upper) + (c * c - s * s) * between;
      if (k + 1 < last) {
        x = beside(k);
        z = s * beside(k + 1);
        beside(k + 1) *= c;
      }
      double* above = row(k);
      double* below = row(k + 1);
      for (index_t j = 0; j < n_; ++j) {
        const double y = above[j];
        above[j] = c * y + s * below[j];
        below[j] = c * below[j] - s * y;
      }
    }
  }

  index_t n_;
  int exponent_ = 0;
  std::vector<double> q_;  ///< Q by rows: the eigenvectors at the end
  std::vector<double> diagonal_;
  std::vector<double> beside_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
