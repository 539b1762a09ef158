// Moments of a core carried over from one basis to another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/full_precision.hpp"
#include "core_optimizer.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Turns cores of one basis into cores of another: A [r, c] becomes R A Q^T [r', c'], with R = V'^T
/// V [r', r] and Q = U'^T U [c', c].
///
/// Exact when the old directions lie in the new basis. Works on arrays in host memory, row by row;
/// allocates.
template <class T, Backend B>
class CoreRotation {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// The rotation from the core of `from` to that of `to`.
  CoreRotation(Context& ctx, const TuckerBasis<T, B>& from, const TuckerBasis<T, B>& to)
      : rows_(from.rows()), cols_(from.cols()) {
    const FullPrecision exact(ctx);
    r_ = rotation(ctx, from.out(), to.out());
    q_ = rotation(ctx, from.in(), to.in());
  }

  /// R o R and Q o Q in place of R and Q (o: by element): what turns second moments.
  void square() {
    for (std::vector<T>* factor : {&r_, &q_})
      for (T& x : *factor)
        x *= x;
  }

  /// An array over the old core [rows, cols], in host memory, as one over the new core.
  std::vector<T> operator()(Context& ctx, std::span<const T> a) const {
    const FullPrecision exact(ctx);
    index_t rows = rows_;
    const index_t cols = cols_;
    Buffer<T, B> now = uploaded(ctx, a);
    if (!r_.empty() && rows > 0) {
      const index_t to = static_cast<index_t>(r_.size()) / rows;
      const Buffer<T, B> factor = uploaded(ctx, r_);
      Buffer<T, B> next(ctx, to * cols);
      B::template gemm<T>(ctx, Op::none, Op::none, T(1), factor.matrix(to, rows),
                          std::as_const(now).matrix(rows, cols), T(0), next.matrix(to, cols));
      now = std::move(next);
      rows = to;
    }
    if (!q_.empty() && cols > 0) {
      const index_t to = static_cast<index_t>(q_.size()) / cols;
      const Buffer<T, B> factor = uploaded(ctx, q_);
      Buffer<T, B> next(ctx, rows * to);
      B::template gemm<T>(ctx, Op::none, Op::transpose, T(1), std::as_const(now).matrix(rows, cols),
                          factor.matrix(to, cols), T(0), next.matrix(rows, to));
      now = std::move(next);
    }
    return downloaded(ctx, now);
  }

 private:
  /// B'^T B [r', r] for the bases B [n, r] and B' [n, r'] of one side; empty for the identity.
  template <class Side>
  static std::vector<T> rotation(Context& ctx, const Side& from, const Side& to) {
    if (!from.rotates() && !to.rotates()) return {};
    const index_t n = from.extent();
    const index_t r = from.rank();
    std::vector<T> unit(static_cast<std::size_t>(r * r));
    for (index_t i = 0; i < r; ++i)
      unit[static_cast<std::size_t>(i * r + i)] = T(1);
    const Buffer<T, B> one = uploaded(ctx, unit);
    Buffer<T, B> columns(ctx, n * r);
    Buffer<T, B> product(ctx, to.rank() * r);
    from.expand_rows(ctx, one.matrix(r, r), T(0), columns.matrix(n, r));
    to.project_rows(ctx, columns.matrix(n, r), product.matrix(to.rank(), r));
    return downloaded(ctx, product);
  }

  static Buffer<T, B> uploaded(Context& ctx, std::span<const T> a) {
    Buffer<T, B> buffer(ctx, static_cast<index_t>(a.size()));
    if (!a.empty()) B::template upload<T>(ctx, a.data(), buffer.data(), buffer.size());
    return buffer;
  }
  static std::vector<T> downloaded(Context& ctx, const Buffer<T, B>& buffer) {
    std::vector<T> a(static_cast<std::size_t>(buffer.size()));
    if (!a.empty()) B::template download<T>(ctx, buffer.data(), a.data(), buffer.size());
    return a;
  }

  index_t rows_ = 0;
  index_t cols_ = 0;
  std::vector<T> r_;
  std::vector<T> q_;
};

/// Sum of squares, in double.
template <class T>
double moment_energy(std::span<const T> values) {
  double sum = 0;
  for (const T x : values)
    sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

/// The report of a rebase that keeps none of a state's moments.
template <class T>
RebaseReport lost_moments(const OptimizerState<T>& s) {
  RebaseReport report;
  report.energy_before = moment_energy<T>(s.arrays.front().values);
  report.lost_to_basis = report.energy_before > 0 ? 1 : 0;
  return report;
}

/// Carries a state over to a new basis, V -> V' and U -> U'. The first array m is linear in the
/// gradients, all others are second moments v. With R and Q of CoreRotation
///
///     m' = R m Q^T                     exact when the old directions lie in the new basis (full sides)
///     v' = (R o R) v (Q o Q)^T         an approximation, exact for uncorrelated entries; v' >= 0
///
/// With `room` the new state is compact: it has the at most `room` entries of m' with the largest
/// absolute values that are not 0. Without it is dense. Every entry's count becomes the largest
/// one. Steps and options stay.
///
/// LDAdam turns the first moment into each new basis in the same way (Robert, Safaryan, Modoranu,
/// Alistarh, "LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics", ICLR 2025).
template <class T, Backend B>
RebaseReport transport_moments(typename B::Context& ctx, OptimizerState<T>& s, const TuckerBasis<T, B>& from,
                               const TuckerBasis<T, B>& to, std::optional<index_t> room) {
  const auto size = static_cast<std::size_t>(s.rows * s.cols);
  CoreRotation<T, B> rotation(ctx, from, to);
  RebaseReport report;
  for (std::size_t a = 0; a < s.arrays.size(); ++a) {
    std::vector<T>& values = s.arrays[a].values;
    if (s.compact) {
      std::vector<T> dense(size);
      for (std::size_t e = 0; e < values.size(); ++e)
        dense[static_cast<std::size_t>(s.index[e])] = values[e];
      values = std::move(dense);
    }
    if (a == 0) report.energy_before = moment_energy<T>(values);
    if (a == 1) rotation.square();
    values = rotation(ctx, values);
  }
  s.rows = to.rows();
  s.cols = to.cols();
  s.compact = room.has_value();
  s.index.clear();

  std::vector<T>& m = s.arrays.front().values;
  const double carried = moment_energy<T>(m);
  double kept = carried;
  if (room) {
    const auto nonzero =
        static_cast<index_t>(std::count_if(m.begin(), m.end(), [](T x) { return x != T(0); }));
    const index_t n = (std::min)(*room, nonzero);
    s.index.resize(static_cast<std::size_t>(n));
    if (n > 0) {
      const auto all = static_cast<index_t>(m.size());
      Buffer<T, B> ranked(ctx, all);
      Buffer<T, B> values(ctx, n);
      Buffer<stored_index_t, B> index(ctx, n);
      B::template upload<T>(ctx, m.data(), ranked.data(), all);
      B::template top_k<T>(ctx, ranked.data(), all, n, index.data(), values.data());
      B::template download<stored_index_t>(ctx, index.data(), s.index.data(), n);
    }
    for (auto& array : s.arrays) {
      std::vector<T> chosen;
      for (const stored_index_t position : s.index)
        chosen.push_back(array.values[static_cast<std::size_t>(position)]);
      array.values = std::move(chosen);
    }
    kept = moment_energy<T>(m);
  }
  if (s.counted) {
    const std::int32_t most = s.count.empty() ? 0 : *std::max_element(s.count.begin(), s.count.end());
    s.count.assign(m.size(), most);
  }
  if (report.energy_before > 0) {
    report.lost_to_basis = (std::max)(0.0, 1 - carried / report.energy_before);
    report.lost_to_capacity = (std::max)(0.0, (carried - kept) / report.energy_before);
  }
  report.entries = static_cast<index_t>(m.size());
  return report;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
