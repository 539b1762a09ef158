// The HOSVD of one side: from the accumulated Gram sums, or their sketch, to the leading
// eigenvectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "basis_side.hpp"
#include "core/buffer.hpp"
#include "core/orthonormalize.hpp"
#include "hosvd_accumulator.hpp"
#include "side_recipe.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// One side as fitted, with what SideReport says of it.
template <class T, Backend B>
struct FittedSide {
  BasisSide<T, B> side;          ///< the change of basis
  std::vector<double> spectrum;  ///< eigenvalues of the side's Gram matrix, descending
  double kept_energy = 1;        ///< fraction of the energy in the side's span
  double tail_energy = 0;        ///< energy outside of it
};

/// Error for a sketched side that was asked for more vectors than the sketch has columns.
inline ValueError sketch_too_small(GradientSide which, index_t extent, index_t columns,
                                   const std::string& recipe, const std::string& wanted) {
  return ValueError(std::string("the ") + to_string(which) + " side, extent " + std::to_string(extent) +
                    ", is sketched with " + std::to_string(columns) + " columns: " + recipe + " asks for " +
                    wanted + "; raise gram_limit_bytes or lower the rank");
}

/// Checks that a recipe can be followed from these sums.
/// Throws StateError when it needs gradients and there are none, or none of that side; ValueError
/// when it asks for more vectors than the side's sketch has columns.
template <class T, Backend B>
void require_fit(const HosvdAccumulator<T, B>& sums, GradientSide which, const SideRecipe& recipe) {
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&recipe.choice());
  if (hosvd == nullptr) return;
  const std::string text = describe(recipe);
  const std::string needs = "recipe " + text + " of the " + to_string(which) + " side needs gradients, and ";
  if (!sums.has_side(which)) throw StateError(needs + "this accumulator was made without that side");
  if (sums.count() == 0) throw StateError(needs + "none was added");
  if (!sums.sketched(which)) return;
  const index_t columns = sums.sketch(which).cols;
  const index_t n = which == GradientSide::out ? sums.out_extent() : sums.in_extent();
  const Truncation::Choice& truncation = hosvd->truncation.choice();
  if (std::holds_alternative<Truncation::Full>(truncation)) {
    throw sketch_too_small(which, n, columns, text, "all vectors");
  }
  const auto* fixed = std::get_if<Truncation::Rank>(&truncation);
  if (fixed != nullptr && fixed->rank > columns) {
    throw sketch_too_small(which, n, columns, text, "more vectors");
  }
}

/// The sign, 1 or -1, that makes an eigenvector's leading entry positive. O(n).
/// Leading is the first entry whose magnitude is the largest to 1e-5: entries of equal magnitude
/// are common in structured bases, and which of them rounding favours differs between machines.
inline double sign_of(const std::vector<double>& x) {
  double largest = 0;
  for (const double value : x)
    largest = (std::max)(largest, std::abs(value));
  for (const double value : x) {
    if (std::abs(value) >= (1 - 1e-5) * largest) return value < 0 ? -1.0 : 1.0;
  }
  return 1.0;
}

/// Rounds the first `rank` rows of `vectors` [>= rank, n] to T, each with its leading entry
/// positive (`sign_of`).
template <class T, Backend B>
Buffer<T, B> store_rows(typename B::Context& ctx, MatrixView<const double> vectors, index_t rank) {
  const index_t n = vectors.cols;
  Buffer<T, B> rows(ctx, rank * n);
  if constexpr (requires { B::template round_rows<T>(ctx, vectors, true, rows.matrix(rank, n)); }) {
    B::template round_rows<T>(ctx, vectors, true, rows.matrix(rank, n));
    return rows;
  }
  std::vector<double> exact(static_cast<std::size_t>(n));
  std::vector<T> rounded(static_cast<std::size_t>(n));
  for (index_t i = 0; i < rank; ++i) {
    B::template download<double>(ctx, vectors.row(i), exact.data(), n);
    const double sign = sign_of(exact);
    for (std::size_t j = 0; j < exact.size(); ++j)
      rounded[j] = static_cast<T>(sign * exact[j]);
    B::template upload<T>(ctx, rounded.data(), rows.data() + i * n, n);
  }
  return rows;
}

/// Eigendecomposition of a positive semidefinite matrix in place: row i of `a` [n, n] becomes
/// eigenvector i. O(n^3). Returns the eigenvalues in descending order on the host; those that
/// rounding made negative are 0.
template <Backend B>
std::vector<double> eigenpairs(typename B::Context& ctx, MatrixView<double> a) {
  Buffer<double, B> values(ctx, a.rows);
  std::vector<double> host(static_cast<std::size_t>(a.rows));
  B::eigh(ctx, a, values.data());
  B::template download<double>(ctx, values.data(), host.data(), a.rows);
  for (double& value : host)
    value = (std::max)(value, 0.0);
  return host;
}

/// Nystroem approximation of the matrix A [n, n] of which a sketch Y = A Omega [n, s] is known. O(n
/// s^2).
///
///     A ~ Y (Omega^T Y)^+ Y^T = U diag(lambda) U^T,   rank q <= s
///
/// Returns lambda in descending order; the rows of `vectors` [q, n] are the columns of U,
/// orthogonal only as far as the spectrum's decay lets them be. Source: Tropp, Yurtsever, Udell,
/// Cevher 2017, algorithm 3, with a cut of the spectrum in place of the shift, because products in
/// float leave more noise than a shift of one ulp would cover.
template <class T, Backend B>
std::vector<double> nystroem(typename B::Context& ctx, MatrixView<const T> omega, MatrixView<const double> y,
                             Buffer<double, B>& vectors, index_t& q) {
  const index_t n = y.rows;
  const index_t s = y.cols;
  Buffer<double, B> reduced(ctx, s * s);
  {
    Buffer<double, B> in_double(ctx, n * s);
    B::template add_wide<T>(ctx, 1.0, omega, in_double.matrix(n, s));
    // Symmetric up to rounding: eigh reads the lower triangle.
    B::template gemm<double>(ctx, Op::transpose, Op::none, 1.0, std::as_const(in_double).matrix(n, s), y, 0.0,
                             reduced.matrix(s, s));
  }
  std::vector<double> values = eigenpairs<B>(ctx, reduced.matrix(s, s));
  const double noise =
      4 * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::sqrt(static_cast<double>(s));
  q = 0;
  while (q < s && values[static_cast<std::size_t>(q)] > noise * values[0])
    ++q;
  if (q == 0) return {};
  for (index_t i = 0; i < q; ++i) {
    B::template scale<double>(ctx, 1 / std::sqrt(values[static_cast<std::size_t>(i)]),
                              reduced.matrix(s, s).block(i, 0, 1, s));
  }
  // F = (Y Q diag(w)^-1/2)^T [q, n], A ~ F^T F.
  Buffer<double, B> f(ctx, q * n);
  B::template gemm<double>(ctx, Op::none, Op::transpose, 1.0,
                           std::as_const(reduced).matrix(s, s).block(0, 0, q, s), y, 0.0, f.matrix(q, n));
  Buffer<double, B> inner(ctx, q * q);
  B::template gram<double>(ctx, Op::none, std::as_const(f).matrix(q, n), 1.0, inner.matrix(q, q));
  std::vector<double> energies = eigenpairs<B>(ctx, inner.matrix(q, q));
  vectors.resize(ctx, q * n);
  B::template gemm<double>(ctx, Op::none, Op::none, 1.0, std::as_const(inner).matrix(q, q),
                           std::as_const(f).matrix(q, n), 0.0, vectors.matrix(q, n));
  for (index_t i = 0; i < q; ++i) {
    const double energy = energies[static_cast<std::size_t>(i)];
    if (energy <= 0) continue;
    B::template scale<double>(ctx, 1 / std::sqrt(energy), vectors.matrix(q, n).block(i, 0, 1, n));
  }
  return energies;
}

/// Energy of a Gram matrix G [n, n] in the span of a stored side: sum_i u_i^T G u_i over its r
/// vectors. O(r n^2). `gram` holds the lower triangle of G.
template <class T, Backend B>
double energy_within(typename B::Context& ctx, const BasisSide<T, B>& side, MatrixView<const double> gram) {
  const index_t n = side.extent();
  constexpr index_t step = 64;
  double sum = 0;
  std::vector<double> g(static_cast<std::size_t>(n));
  Buffer<double, B> rows(ctx, (std::min)(step, side.rank()) * n);
  Buffer<double, B> products(ctx, rows.size());
  std::vector<double> a(static_cast<std::size_t>(rows.size()));
  std::vector<double> b(a.size());
  // u^T (L + L^T - D) u = 2 u^T L u - u^T D u with L the lower triangle, whose complement holds
  // zeros.
  Buffer<double, B> diagonal(ctx, n);
  B::template copy<double>(ctx, MatrixView<const double>(gram.data, n, 1, gram.stride + 1),
                           diagonal.matrix(n, 1));
  B::template download<double>(ctx, diagonal.data(), g.data(), n);
  for (index_t first = 0; first < side.rank(); first += step) {
    const index_t count = (std::min)(step, side.rank() - first);
    const MatrixView<double> u = rows.matrix(count, n);
    B::template zero<double>(ctx, u.data, u.size());
    B::template add_wide<T>(ctx, 1.0, side.factor().block(first, 0, count, n), u);
    B::template gemm<double>(ctx, Op::none, Op::none, 1.0, u, gram, 0.0, products.matrix(count, n));
    B::template download<double>(ctx, u.data, a.data(), u.size());
    B::template download<double>(ctx, products.data(), b.data(), u.size());
    for (index_t e = 0; e < u.size(); ++e) {
      const auto i = static_cast<std::size_t>(e);
      sum += a[i] * (2 * b[i] - g[static_cast<std::size_t>(e % n)] * a[i]);
    }
  }
  return sum;
}

/// Makes one side by its recipe. O(n^3) for a HOSVD from Gram sums, O(n s^2) from a sketch.
/// `consumed`, where it is not null, is `sums` itself, whose Gram sums are then overwritten instead
/// of copied.
/// Throws ValueError as `Truncation::choose`, and when the number chosen exceeds the sketch's
/// columns.
template <class T, Backend B>
FittedSide<T, B> fit_side(typename B::Context& ctx, const HosvdAccumulator<T, B>& sums,
                          HosvdAccumulator<T, B>* consumed, GradientSide which, const SideRecipe& recipe) {
  using Side = BasisSide<T, B>;
  const index_t n = which == GradientSide::out ? sums.out_extent() : sums.in_extent();
  const double total = sums.total_energy();
  FittedSide<T, B> fitted;
  // The two sides of a square gradient must not get the same rotation from one seed.
  const auto seed_of_side = [&](std::uint64_t seed) {
    return which == GradientSide::out ? seed : mix64(seed + 1);
  };
  const auto finish = [&](double kept, double all) {
    fitted.kept_energy = all > 0 ? std::clamp(kept / all, 0.0, 1.0) : 1.0;
    fitted.tail_energy = (std::max)(0.0, all - kept);
  };
  if (const auto* hadamard = std::get_if<SideRecipe::Hadamard>(&recipe.choice())) {
    fitted.side = Side::hadamard(ctx, n, seed_of_side(hadamard->seed));
    return fitted;
  }
  if (const auto* random = std::get_if<SideRecipe::Random>(&recipe.choice())) {
    const index_t rank = random->rank == 0 ? n : (std::min)(random->rank, n);
    fitted.side = Side::random(ctx, n, rank, seed_of_side(random->seed));
    if (rank == n) return fitted;
    if (sums.count() > 0 && !sums.gram(which).empty()) {
      finish(energy_within(ctx, fitted.side, sums.gram(which)), total);
    } else {
      fitted.kept_energy = fitted.tail_energy = std::numeric_limits<double>::quiet_NaN();
    }
    return fitted;
  }
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&recipe.choice());
  if (hosvd == nullptr) {
    fitted.side = Side::identity(n);
    return fitted;
  }
  if (n == 0) {
    fitted.side = Side::from_rows(ctx, {});
    return fitted;
  }

  if (sums.sketched(which)) {
    const MatrixView<const double> y = sums.sketch(which);
    const index_t columns = y.cols;
    Buffer<double, B> found;
    index_t q = 0;
    if (total > 0) fitted.spectrum = nystroem<T, B>(ctx, sums.test_matrix(which), y, found, q);
    fitted.spectrum.resize(static_cast<std::size_t>(columns), 0.0);
    const index_t rank = hosvd->truncation.choose(fitted.spectrum, n, total);
    if (rank > columns) {
      throw sketch_too_small(which, n, columns, describe(recipe), std::to_string(rank) + " vectors");
    }
    // Vectors beyond the sketch's numerical rank start as zeros and become random directions.
    Buffer<double, B> vectors(ctx, rank * n);
    const index_t known = (std::min)(q, rank);
    if (known > 0) {
      B::template copy<double>(ctx, std::as_const(found).matrix(q, n).block(0, 0, known, n),
                               vectors.matrix(rank, n).block(0, 0, known, n));
    }
    found.release();
    orthonormalize_rows<B>(ctx, vectors.matrix(rank, n), mix64(sums.options().sketch_seed));
    fitted.side =
        Side::adopt_rows(rank, n, store_rows<T, B>(ctx, std::as_const(vectors).matrix(rank, n), rank));
    finish(std::accumulate(fitted.spectrum.begin(), fitted.spectrum.begin() + rank, 0.0), total);
    return fitted;
  }

  Buffer<double, B> vectors;
  if (consumed != nullptr) {
    vectors = consumed->release_gram(which);
  } else {
    vectors.resize(ctx, n * n);
    B::template copy<double>(ctx, sums.gram(which), vectors.matrix(n, n));
  }
  fitted.spectrum = eigenpairs<B>(ctx, vectors.matrix(n, n));
  const double all = std::accumulate(fitted.spectrum.begin(), fitted.spectrum.end(), 0.0);
  const index_t rank = hosvd->truncation.choose(fitted.spectrum, n, all);
  fitted.side = Side::adopt_rows(rank, n, store_rows<T, B>(ctx, std::as_const(vectors).matrix(n, n), rank));
  finish(std::accumulate(fitted.spectrum.begin(), fitted.spectrum.begin() + rank, 0.0), all);
  if (rank == n) {
    fitted.kept_energy = 1;
    fitted.tail_energy = 0;
  }
  return fitted;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
