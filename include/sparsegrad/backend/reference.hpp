// backend::Reference: the contract in plain loops. The oracle of every other backend, and the
// worked example of one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <span>
#include <vector>

#include "../core/backend.hpp"
#include "../core/float_bits.hpp"
#include "host/context.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

/// Serial, unblocked, allocates where that reads better. Sums run in double.
struct Reference {
  using Context = host::HostContext;
  using Memory = host::HostMemory;
  static constexpr const char* name() { return "reference"; }
  static constexpr double dense_above_density = 1;  // left to the cost model

  static Memory memory(const Context&) { return {}; }
  template <class T>
  static void zero(Context&, T* p, index_t n) {
    std::fill(p, p + n, T(0));
  }
  template <class T>
  static void upload(Context&, const T* source, T* p, index_t n) {
    std::copy(source, source + n, p);
  }
  template <class T>
  static void download(Context&, const T* p, T* target, index_t n) {
    std::copy(p, p + n, target);
  }
  template <class T>
  static void copy(Context&, ConstMatrixView<T> a, MatrixView<T> b) {
    for (index_t i = 0; i < b.rows; ++i)
      for (index_t j = 0; j < b.cols; ++j)
        b(i, j) = a(i, j);
  }
  template <class T>
  static void widen(Context&, ConstMatrixView<T> a, MatrixView<compute_t<T>> b) {
    for (index_t i = 0; i < b.rows; ++i)
      for (index_t j = 0; j < b.cols; ++j)
        b(i, j) = static_cast<compute_t<T>>(a(i, j));
  }
  template <class T>
  static void round_to(Context&, ConstMatrixView<compute_t<T>> a, MatrixView<T> b) {
    for (index_t i = 0; i < b.rows; ++i)
      for (index_t j = 0; j < b.cols; ++j)
        b(i, j) = static_cast<T>(a(i, j));
  }

  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    multiply<T, T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void gemm_wide(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                        ConstMatrixView<T> b, compute_t<T> beta, MatrixView<compute_t<T>> c) {
    multiply<T, compute_t<T>>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }

  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    for (std::size_t e = 0; e < cs.size(); ++e)
      gemm<T>(ctx, op_a, op_b, alpha, as[e], bs[e], beta, cs[e]);
  }

  template <class T>
  static void gram(Context&, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    const index_t depth = op == Op::none ? a.cols : a.rows;
    for (index_t i = 0; i < g.rows; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (index_t l = 0; l < depth; ++l) {
          const T x = op == Op::none ? a(i, l) : a(l, i);
          const T y = op == Op::none ? a(j, l) : a(l, j);
          sum += static_cast<double>(x) * static_cast<double>(y);
        }
        g(i, j) += weight * sum;
      }
    }
  }

  /// Cyclic Jacobi rotations (Golub and Van Loan, Matrix Computations, section 8.5).
  static void eigh(Context&, MatrixView<double> a, double* w) {
    const index_t n = a.rows;
    for (index_t i = 0; i < n; ++i)
      for (index_t j = i + 1; j < n; ++j)
        a(i, j) = a(j, i);
    std::vector<double> vectors(static_cast<std::size_t>(n * n), 0.0);
    const MatrixView<double> v(vectors.data(), n, n);
    for (index_t i = 0; i < n; ++i)
      v(i, i) = 1;
    for (int sweep = 0; sweep < 60; ++sweep) {
      double off = 0;
      double all = 0;
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < n; ++j) {
          all += a(i, j) * a(i, j);
          if (i != j) off += a(i, j) * a(i, j);
        }
      }
      if (off <= 1e-30 * all) break;
      for (index_t p = 0; p < n; ++p)
        for (index_t q = p + 1; q < n; ++q)
          rotate(a, v, p, q);
    }
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) { return a(x, x) > a(y, y); });
    std::vector<double> values;
    for (const index_t o : order)
      values.push_back(a(o, o));
    for (index_t i = 0; i < n; ++i) {
      w[i] = values[static_cast<std::size_t>(i)];
      for (index_t j = 0; j < n; ++j)
        a(i, j) = v(order[static_cast<std::size_t>(i)], j);
    }
  }

  template <class T>
  static void column_sums(Context&, ConstMatrixView<T> a, compute_t<T>* sums) {
    for (index_t j = 0; j < a.cols; ++j) {
      double sum = 0;
      for (index_t i = 0; i < a.rows; ++i)
        sum += static_cast<double>(a(i, j));
      sums[j] = static_cast<compute_t<T>>(static_cast<double>(sums[j]) + sum);
    }
  }
  template <class T>
  static void add_to_rows(Context&, const T* terms, MatrixView<T> a) {
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        a(i, j) = static_cast<T>(a(i, j) + terms[j]);
  }
  template <class T>
  static void scale(Context&, std::type_identity_t<T> alpha, MatrixView<T> a) {
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        a(i, j) *= alpha;
  }
  template <class T>
  static void add(Context&, std::type_identity_t<T> alpha, ConstMatrixView<T> a, MatrixView<T> b) {
    for (index_t i = 0; i < b.rows; ++i)
      for (index_t j = 0; j < b.cols; ++j)
        b(i, j) += alpha * a(i, j);
  }
  template <class T>
  static void add_wide(Context&, double alpha, ConstMatrixView<T> a, MatrixView<double> b) {
    for (index_t i = 0; i < b.rows; ++i)
      for (index_t j = 0; j < b.cols; ++j)
        b(i, j) += alpha * static_cast<double>(a(i, j));
  }
  template <class T>
  static double squared_norm(Context&, ConstMatrixView<T> a) {
    double sum = 0;
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        sum += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
    return sum;
  }
  template <class T>
  static index_t first_nonfinite(Context&, ConstMatrixView<T> a) {
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        if (!is_finite(a(i, j))) return i * a.cols + j;
    return -1;
  }

  /// H = (I - 2/m 1 1^T) (x) H_b diag(signs), n = m b, b the largest power of two that divides n,
  /// H_b the orthonormal Hadamard matrix; the inverse is the transpose.
  template <class T>
  static void hadamard(Context&, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    const index_t n = side == TransformSide::rows ? a.cols : a.rows;
    const index_t vectors = side == TransformSide::rows ? a.rows : a.cols;
    if (n == 0) return;
    const index_t b = n & -n;
    const index_t m = n / b;
    std::vector<double> x(static_cast<std::size_t>(n));
    std::vector<double> y(static_cast<std::size_t>(n));
    const auto entry = [&](index_t p, index_t q) {  // of (I - 2/m 1 1^T) (x) H_b
      const index_t bits = (p % b) & (q % b);
      int parity = 0;
      for (index_t rest = bits; rest != 0; rest &= rest - 1)
        parity ^= 1;
      const double hadamard = (parity != 0 ? -1.0 : 1.0) / std::sqrt(static_cast<double>(b));
      const double mix = m == 1 ? 1.0 : (p / b == q / b ? 1.0 : 0.0) - 2.0 / static_cast<double>(m);
      return mix * hadamard;
    };
    for (index_t e = 0; e < vectors; ++e) {
      const auto at = [&](index_t i) -> T& { return side == TransformSide::rows ? a(e, i) : a(i, e); };
      for (index_t i = 0; i < n; ++i) {
        x[static_cast<std::size_t>(i)] =
            static_cast<double>(at(i)) * (inverse ? 1.0 : static_cast<double>(signs[i]));
      }
      for (index_t i = 0; i < n; ++i) {
        double sum = 0;  // the mixing matrix and H_b are symmetric: forward and inverse differ in the signs'
                         // side alone
        for (index_t j = 0; j < n; ++j)
          sum += entry(i, j) * x[static_cast<std::size_t>(j)];
        y[static_cast<std::size_t>(i)] = sum;
      }
      for (index_t i = 0; i < n; ++i) {
        at(i) =
            static_cast<T>(y[static_cast<std::size_t>(i)] * (inverse ? static_cast<double>(signs[i]) : 1.0));
      }
    }
  }

  template <class T>
  static void top_k(Context&, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    const auto magnitude = [&](index_t i) {  // |NaN| above Inf
      return is_nan(x[i]) ? FloatBits<T>::infinity + 1 : FloatBits<T>::magnitude(x[i]);
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](index_t i, index_t j) { return magnitude(i) > magnitude(j); });
    order.resize(static_cast<std::size_t>(k));
    std::sort(order.begin(), order.end());
    for (index_t e = 0; e < k; ++e) {
      index[e] = static_cast<stored_index_t>(order[static_cast<std::size_t>(e)]);
      value[e] = x[index[e]];
    }
  }
  template <class T>
  static void gather(Context&, const T* x, const stored_index_t* index, index_t k, T* value) {
    for (index_t e = 0; e < k; ++e)
      value[e] = x[index[e]];
  }
  template <class T>
  static void sampled_product(Context&, ConstMatrixView<T> a, ConstMatrixView<T> b,
                              const stored_index_t* index, index_t k, index_t cols, compute_t<T>* value) {
    for (index_t e = 0; e < k; ++e) {
      double sum = 0;
      for (index_t t = 0; t < a.rows; ++t) {
        sum += static_cast<double>(a(t, index[e] / cols)) * static_cast<double>(b(t, index[e] % cols));
      }
      value[e] = static_cast<compute_t<T>>(static_cast<double>(value[e]) + sum);
    }
  }
  template <class T>
  static void expand_rows(Context&, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, ConstMatrixView<T> f, MatrixView<T> m) {
    for (index_t e = 0; e < k; ++e)
      for (index_t j = 0; j < m.cols; ++j)
        m(row[e], j) += value[e] * f(col[e], j);
  }

  template <class T>
  static void transpose(Context&, ConstMatrixView<T> a, MatrixView<T> b) {
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        b(j, i) = a(i, j);
  }
  template <class T>
  static void scatter(Context&, const T* value, const stored_index_t* index, index_t k, T* x) {
    for (index_t e = 0; e < k; ++e)
      x[index[e]] = value[e];
  }
  template <class T>
  static void scatter_add(Context&, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, MatrixView<T> m) {
    for (index_t e = 0; e < k; ++e)
      m(row[e], col[e]) += value[e];
  }
  template <class T>
  static void gather_rows(Context&, ConstMatrixView<T> f, const stored_index_t* list, index_t q,
                          MatrixView<T> p) {
    for (index_t s = 0; s < q; ++s)
      for (index_t j = 0; j < p.cols; ++j)
        p(s, j) = f(list[s], j);
  }
  template <class T>
  static void add_columns(Context&, ConstMatrixView<T> p, const stored_index_t* list, MatrixView<T> m) {
    for (index_t s = 0; s < p.rows; ++s)
      for (index_t i = 0; i < p.cols; ++i)
        m(i, list[s]) += p(s, i);
  }
  static index_t group_support(Context&, const stored_index_t* index, index_t k, index_t rows, index_t cols,
                               bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    const index_t groups = columns ? cols : rows;
    index_t place = 0;
    index_t used = 0;
    for (index_t g = 0; g < groups; ++g) {
      const index_t before = place;
      for (index_t e = 0; e < k; ++e) {
        const index_t i = index[e] / cols;
        const index_t j = index[e] % cols;
        if ((columns ? j : i) != g) continue;
        group[place] = static_cast<stored_index_t>(used);
        other[place] = static_cast<stored_index_t>(columns ? i : j);
        order[place] = static_cast<stored_index_t>(e);
        ++place;
      }
      if (place > before) list[used++] = static_cast<stored_index_t>(g);
    }
    return used;
  }
  template <class T>
  static index_t scratch_bound(const Context& ctx, index_t n) {
    return n * static_cast<index_t>(sizeof(T) + 2 * sizeof(stored_index_t)) +
           ctx.threads() * (index_t{16} << 20);
  }

  static index_t locate_entries(Context&, const stored_index_t* index, index_t k, const stored_index_t* held,
                                index_t n, stored_index_t* place, stored_index_t* added) {
    index_t q = 0;
    for (index_t e = 0; e < k; ++e) {
      const stored_index_t* at = std::lower_bound(held, held + n, index[e]);
      place[e] = static_cast<stored_index_t>(at - held + q);
      if (at == held + n || *at != index[e]) added[q++] = static_cast<stored_index_t>(e);
    }
    return q;
  }
  template <class T>
  static void insert_entries(Context&, const stored_index_t* index, const stored_index_t* place,
                             const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m,
                             T* v, std::int32_t* count) {
    index_t from = n - 1;
    for (index_t to = n + q - 1; q > 0; --to) {
      const bool is_new = place[added[q - 1]] == to;
      held[to] = is_new ? index[added[q - 1]] : held[from];
      m[to] = is_new ? T(0) : m[from];
      v[to] = is_new ? T(0) : v[from];
      if (count != nullptr) count[to] = is_new ? 0 : count[from];
      is_new ? --q : --from;
    }
  }

  /// One entry: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, d = -lr m^ / (sqrt(v^) + eps), g
  /// scaled first. `entry` null: e. `count` null: the global step, else the entry's own, raised
  /// here.
  template <class T>
  static void adam(Context&, const AdamCoefficients& c, const T* g, const stored_index_t* entry, index_t k,
                   T* m, T* v, std::int32_t* count, T* d) {
    for (index_t e = 0; e < k; ++e) {
      const index_t s = entry == nullptr ? e : entry[e];
      const double t = count == nullptr ? static_cast<double>(c.step) : static_cast<double>(++count[s]);
      const double correction1 = 1 - std::pow(c.beta1, t);
      const double correction2 = 1 - std::pow(c.beta2, t);
      const double x = static_cast<double>(g[e]) * c.grad_scale;
      m[s] = static_cast<T>(c.beta1 * static_cast<double>(m[s]) + (1 - c.beta1) * x);
      v[s] = static_cast<T>(c.beta2 * static_cast<double>(v[s]) + (1 - c.beta2) * x * x);
      const double root = std::sqrt(static_cast<double>(v[s]));
      const double correction = std::sqrt(correction2);
      const double denominator = c.eps_uncorrected ? (root + c.eps) / correction : root / correction + c.eps;
      d[e] = static_cast<T>(-c.learning_rate / correction1 * static_cast<double>(m[s]) / denominator);
    }
  }

 private:
  template <class T, class Out>
  static void multiply(Context&, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                       ConstMatrixView<T> b, compute_t<T> beta, MatrixView<Out> c) {
    using C = compute_t<T>;
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    for (index_t i = 0; i < c.rows; ++i) {
      for (index_t j = 0; j < c.cols; ++j) {
        double sum = 0;
        for (index_t l = 0; l < depth; ++l) {
          const T x = op_a == Op::none ? a(i, l) : a(l, i);
          const T y = op_b == Op::none ? b(l, j) : b(j, l);
          sum += static_cast<double>(x) * static_cast<double>(y);
        }
        const double old = beta == C(0) ? 0.0 : static_cast<double>(beta) * static_cast<double>(c(i, j));
        c(i, j) = static_cast<Out>(static_cast<C>(static_cast<double>(alpha) * sum + old));
      }
    }
  }

  static void rotate(MatrixView<double> a, MatrixView<double> v, index_t p, index_t q) {
    if (a(p, q) == 0) return;
    const double theta = (a(q, q) - a(p, p)) / (2 * a(p, q));
    const double t = (theta >= 0 ? 1.0 : -1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1));
    const double cosine = 1 / std::sqrt(t * t + 1);
    const double sine = t * cosine;
    for (index_t i = 0; i < a.rows; ++i) {
      const double x = a(i, p);
      const double y = a(i, q);
      a(i, p) = cosine * x - sine * y;
      a(i, q) = sine * x + cosine * y;
    }
    for (index_t i = 0; i < a.rows; ++i) {
      const double x = a(p, i);
      const double y = a(q, i);
      a(p, i) = cosine * x - sine * y;
      a(q, i) = sine * x + cosine * y;
      const double r = v(p, i);
      const double s = v(q, i);
      v(p, i) = cosine * r - sine * s;
      v(q, i) = sine * r + cosine * s;
    }
  }
};

static_assert(Backend<Reference> && LowPrecisionBackend<Reference, bfloat16> &&
              LowPrecisionBackend<Reference, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
