#include "sparsegrad/tucker_basis.hpp"

#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <limits>
#include <vector>

#include "sparsegrad/extras/tensor.hpp"
#include "sparsegrad/io/side_recipe_text.hpp"
#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

template <class T, class B>
HosvdAccumulator<T, B> summed(typename B::Context& ctx, const std::vector<Matrix<T>>& gradients,
                              HosvdOptions options = {}) {
  HosvdAccumulator<T, B> sums(ctx, gradients[0].rows, gradients[0].cols, options);
  for (const Matrix<T>& gradient : gradients)
    sums.add(ctx, gradient.view());
  return sums;
}

/// U [n, r] of a stored side.
template <class Side>
Matrix<double> columns_of(const Side& side) {
  Matrix<double> u(side.extent(), side.rank());
  for (index_t i = 0; i < u.rows; ++i)
    for (index_t j = 0; j < u.cols; ++j)
      u(i, j) = static_cast<double>(side.factor()(j, i));
  return u;
}

/// max |B - A A^T B|: 0 when the orthonormal columns of A and as many of B span the same space.
double subspace_difference(const Matrix<double>& a, const Matrix<double>& b) {
  return a.cols == b.cols ? max_difference(product(a, product(a, b, true)), b) : INFINITY;
}

/// Left singular vectors and singular values of the explicit unfolding, by Eigen.
template <class T>
struct Svd {
  Matrix<double> u;
  std::vector<double> values;
  Svd(const std::vector<Matrix<T>>& gradients, Mode mode) {
    backend::Reference::Context ctx(1);
    const auto n = static_cast<index_t>(gradients.size());
    Matrix<double> memory(n, gradients[0].rows * gradients[0].cols);
    for (index_t g = 0; g < n; ++g)
      for (index_t e = 0; e < memory.cols; ++e)
        memory(g, e) =
            static_cast<double>(gradients[static_cast<std::size_t>(g)].data[static_cast<std::size_t>(e)]);
    const TensorView<double> x(memory.data.data(), n, gradients[0].rows, gradients[0].cols);
    Matrix<double> a(x.extent(mode), x.size() / x.extent(mode));
    unfold<double, backend::Reference>(ctx, x, mode, a.view());
    Eigen::MatrixXd dense(a.rows, a.cols);
    for (index_t i = 0; i < a.rows; ++i)
      for (index_t j = 0; j < a.cols; ++j)
        dense(i, j) = a(i, j);
    const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::ColPivHouseholderQRPreconditioner> svd(
        dense, Eigen::ComputeThinU);
    u = Matrix<double>(a.rows, svd.matrixU().cols());
    for (index_t i = 0; i < u.rows; ++i)
      for (index_t j = 0; j < u.cols; ++j)
        u(i, j) = svd.matrixU()(i, j);
    for (index_t i = 0; i < svd.singularValues().size(); ++i)
      values.push_back(svd.singularValues()(i));
  }
};

/// sqrt(sum_i ||G_i - V C_i U^T||^2) in double.
template <class T, class B>
double reconstruction_error(typename B::Context& ctx, const TuckerBasis<T, B>& basis,
                            const std::vector<Matrix<T>>& gradients) {
  double sum = 0;
  for (const Matrix<T>& gradient : gradients) {
    Matrix<T> core(basis.rows(), basis.cols());
    Matrix<T> again = gradient;
    basis.project(ctx, gradient.view(), core.view());
    basis.expand(ctx, core.view(), T(-1), again.view());  // V C U^T - G
    sum += energy_of(again);
  }
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE_TEMPLATE("tucker basis: spectra and subspaces equal an SVD of the unfolding", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  for (const auto& extents : {std::pair<index_t, index_t>{11, 7}, {5, 13}}) {
    const index_t out = extents.first;
    const index_t in = extents.second;
    CAPTURE(out);
    std::vector<Matrix<T>> gradients = planted_stack<T>(3, out, in, 4, 0.6, 5).gradients;
    for (std::size_t g = 0; g < gradients.size(); ++g) {  // and a full-rank rest
      const Matrix<T> rest = random_matrix<T>(out, in, 70 + g);
      for (std::size_t e = 0; e < rest.data.size(); ++e)
        gradients[g].data[e] += T(0.01) * rest.data[e];
    }
    const auto sums = summed<T, B>(ctx, gradients);
    const auto full = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd());
    for (const GradientSide which : {GradientSide::out, GradientSide::in}) {
      const Svd<T> svd(gradients, which == GradientSide::out ? Mode::out : Mode::in);
      const auto& side = which == GradientSide::out ? full->out() : full->in();
      const auto& report = which == GradientSide::out ? full->report().out : full->report().in;
      const index_t n = side.extent();
      REQUIRE(static_cast<index_t>(report.spectrum.size()) == n);
      double total = 0;
      for (index_t i = 0; i < n; ++i) {
        const auto e = static_cast<std::size_t>(i);
        const double energy = svd.values[e] * svd.values[e];
        total += energy;
        CHECK(std::abs(report.spectrum[e] - energy) <= 100 * S::eps * svd.values[0] * svd.values[0]);
        CHECK(report.spectrum[e] >= 0);
        if (i > 0) CHECK(report.spectrum[e] <= report.spectrum[e - 1]);
      }
      CHECK(full->report().total_energy == doctest::Approx(total).epsilon(1e-6));
      CHECK(report.kept_energy == 1);
      CHECK(report.tail_energy == 0);
      // The four planted vectors one by one (up to sign), and their span.
      const Matrix<double> u = columns_of(side);
      for (index_t j = 0; j < 4; ++j) {
        double dot = 0;
        for (index_t i = 0; i < n; ++i)
          dot += u(i, j) * svd.u(i, j);
        CHECK(std::abs(dot) == doctest::Approx(1).epsilon(1e4 * S::eps));
      }
      const auto cut = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(4), SideRecipe::hosvd(4));
      Matrix<double> leading(n, 4);
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < 4; ++j)
          leading(i, j) = svd.u(i, j);
      CHECK(subspace_difference(columns_of(which == GradientSide::out ? cut->out() : cut->in()), leading) <=
            2e4 * S::eps);
    }
  }
}

TEST_CASE_TEMPLATE("tucker basis: planted stacks are compact in it, not raw, not with U^T in the place of U",
                   S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  const index_t rank = 6;
  const auto stack = planted_stack<T>(9, 41, 29, rank, 0.7, 3);
  const auto sums = summed<T, B>(ctx, stack.gradients);
  const auto basis = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd());
  const auto transposed = basis->with_transposed_input(ctx);
  const auto truncated = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(rank), SideRecipe::hosvd(rank));
  const auto out_only = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::identity());
  for (const Matrix<T>& gradient : stack.gradients) {
    const EnergyFractions good = basis->energy(ctx, gradient.view(), 2 * rank);
    CHECK(good.basis_top_k >= 0.99);
    CHECK(good.raw_top_k < 0.5);
    CHECK(good.kept_block == doctest::Approx(1).epsilon(1e-5));
    const EnergyFractions wrong = transposed->energy(ctx, gradient.view(), 2 * rank);
    CHECK(wrong.basis_top_k < 0.9);
    CHECK(wrong.raw_top_k == good.raw_top_k);
    CHECK(truncated->energy(ctx, gradient.view(), 2 * rank).kept_block >= 0.99999);
    CHECK(out_only->energy(ctx, gradient.view(), 2 * rank).basis_top_k < 0.95);
    // The core has the planted entries and no others.
    Matrix<T> core(rank, rank);
    truncated->project(ctx, gradient.view(), core.view());
    CHECK(energy_of(core) == doctest::Approx(energy_of(gradient)).epsilon(1e-5));
    // Full rank reconstructs.
    Matrix<T> whole(41, 29);
    Matrix<T> again(41, 29, std::numeric_limits<T>::quiet_NaN());
    basis->project(ctx, gradient.view(), whole.view());
    basis->expand(ctx, whole.view(), T(0), again.view());
    CHECK(max_difference(again, gradient) <= 100 * S::eps);
  }
  CHECK(subspace_difference(columns_of(truncated->out()), stack.v) <= 1e4 * S::eps);
  CHECK(subspace_difference(columns_of(truncated->in()), stack.u) <= 1e4 * S::eps);
  CHECK(basis->orthogonality_defect(ctx).out <= 50 * S::eps);
  CHECK(basis->orthogonality_defect(ctx).in <= 50 * S::eps);
  CHECK(basis->bytes() == (41 * 41 + 29 * 29) * static_cast<index_t>(sizeof(T)));
  CHECK(out_only->bytes() == 41 * 41 * static_cast<index_t>(sizeof(T)));
}

TEST_CASE_TEMPLATE("tucker basis: project and expand against plain loops, all kinds of sides", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  for (const auto& extents : {std::pair<index_t, index_t>{1, 1}, {12, 7}, {3, 17}}) {
    const index_t out = extents.first;
    const index_t in = extents.second;
    const std::vector<Matrix<T>> gradients{random_matrix<T>(out, in, 1), random_matrix<T>(out, in, 2)};
    const auto sums = summed<T, B>(ctx, gradients);
    for (const char* out_rule : {"identity", "full", "2", "0.8", "hadamard", "random:2"}) {
      for (const char* in_rule : {"identity", "full", "1", "hadamard", "random"}) {
        CAPTURE(out_rule);
        CAPTURE(in_rule);
        const auto basis =
            TuckerBasis<T, B>::fit(ctx, sums, parse_side_recipe(out_rule), parse_side_recipe(in_rule));
        const auto matrix = [&](const auto& side) {
          Matrix<T> unit(side.rank(), side.rank());
          for (index_t i = 0; i < side.rank(); ++i)
            unit(i, i) = 1;
          Matrix<T> u(side.extent(), side.rank());
          side.expand_rows(ctx, unit.view(), T(0), u.view());
          return u;
        };
        const Matrix<T> v = matrix(basis->out());
        const Matrix<T> u = matrix(basis->in());
        Matrix<T> core(basis->rows(), basis->cols(), std::numeric_limits<T>::quiet_NaN());
        basis->project(ctx, gradients[0].view(), core.view());
        CHECK(max_difference(core, product(product(v, gradients[0], true), u)) <= 200 * S::eps);
        Matrix<T> g = gradients[1];
        basis->expand(ctx, core.view(), T(2), g.view());
        Matrix<double> want = product(product(v, core), u, false, true);
        for (std::size_t e = 0; e < want.data.size(); ++e)
          want.data[e] += 2 * static_cast<double>(gradients[1].data[e]);
        CHECK(max_difference(g, want) <= 200 * S::eps);

        const EnergyFractions shares = basis->energy(ctx, gradients[0].view(), 3);
        CHECK(shares.basis_top_k <= shares.kept_block);
        CHECK(shares.kept_block <= 1);
        CHECK(shares.raw_top_k > 0);
        CHECK(shares.raw_top_k <= 1);
        CHECK(basis->energy(ctx, gradients[0].view(), 1000000).raw_top_k == doctest::Approx(1).epsilon(1e-6));
        CHECK(basis->energy(ctx, gradients[0].view(), 1000000).basis_top_k ==
              doctest::Approx(shares.kept_block).epsilon(1e-6));
        CHECK(basis->energy(ctx, gradients[0].view(), 0).raw_top_k == 0);
        // What the report promises holds for the stack that it was made from.
        double kept = 0;
        double all = 0;
        for (const Matrix<T>& gradient : gradients) {
          kept += basis->energy(ctx, gradient.view(), 0).kept_block * energy_of(gradient);
          all += energy_of(gradient);
        }
        const double error = reconstruction_error(ctx, *basis, gradients);
        const double slack = 1e3 * S::eps;
        CHECK(kept / all >= basis->report().joint_lower_bound() - slack);
        CHECK(kept / all <=
              std::min(basis->report().out.kept_energy, basis->report().in.kept_energy) + slack);
        CHECK(error <= basis->report().tail_bound() + std::sqrt(slack * all));
        CHECK(error * error == doctest::Approx(all - kept).epsilon(1e-3).scale(all));
      }
    }
  }
}

TEST_CASE_TEMPLATE("tucker basis: tail bound and energy rule on decaying spectra", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  const auto stack = planted_stack<T>(7, 23, 19, 12, 0.8, 11);
  const auto sums = summed<T, B>(ctx, stack.gradients);
  for (const index_t r : {index_t{1}, index_t{3}, index_t{8}, index_t{12}}) {
    const auto basis = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(r), SideRecipe::hosvd(r + 1));
    const double total = basis->report().total_energy;
    const double error = reconstruction_error(ctx, *basis, stack.gradients);
    CHECK(error <=
          basis->report().tail_bound() + 100 * std::sqrt(S::eps) * std::sqrt(total) * (r == 12 ? 1 : 0.01));
    // Each side alone is a lower bound of the error.
    CHECK(error * error >=
          std::max(basis->report().out.tail_energy, basis->report().in.tail_energy) - 100 * S::eps * total);
    CHECK(basis->report().joint_lower_bound() ==
          doctest::Approx(
              std::max(0.0, 1 - (basis->report().out.tail_energy + basis->report().in.tail_energy) / total))
              .epsilon(1e-4));
  }
  for (const double share : {0.3, 0.9, 0.999}) {
    const SideRecipe recipe = SideRecipe::hosvd(Truncation::energy(share));
    const auto basis = TuckerBasis<T, B>::fit(ctx, sums, recipe, recipe);
    CHECK(basis->report().out.kept_energy >= share);
    const auto smaller = TuckerBasis<T, B>::fit(
        ctx, sums, SideRecipe::hosvd(std::max<index_t>(basis->rows() - 1, 1)), SideRecipe::hosvd());
    if (basis->rows() > 1) CHECK(smaller->report().out.kept_energy < share);
  }
  index_t seen = 0;
  const Truncation five = Truncation::custom([&](auto energies) {
    seen = static_cast<index_t>(energies.size());
    return index_t{5};
  });
  const auto basis = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(five), SideRecipe::identity());
  CHECK(seen == 23);
  CHECK(basis->rows() == 5);
}

TEST_CASE_TEMPLATE("tucker basis: signs do not depend on reruns, threads, or consumption", S,
                   Setup<float, backend::Cpu>, Setup<double, backend::Cpu>, Setup<float, backend::CpuBlas>,
                   Setup<double, backend::CpuBlas>) {
  using T = typename S::T;
  using B = typename S::B;
  // Large enough for several tiles; all vectors well separated.
  const auto stack = planted_stack<T>(5, 400, 70, 9, 0.7, 21);
  typename B::Context one(1, true);
  const auto want = TuckerBasis<T, B>::fit(one, summed<T, B>(one, stack.gradients), SideRecipe::hosvd(9),
                                           SideRecipe::hosvd(9));
  for (const bool deterministic : {true, false}) {
    for (const int threads : {1, 2, 3}) {
      typename B::Context ctx(threads, deterministic);
      auto sums = summed<T, B>(ctx, stack.gradients);
      const auto first = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(9), SideRecipe::hosvd(9));
      const auto second =
          TuckerBasis<T, B>::fit(ctx, std::move(sums), SideRecipe::hosvd(9), SideRecipe::hosvd(9));
      for (const auto& basis : {first, second}) {
        const double tolerance = deterministic ? 0 : 1e4 * S::eps;
        CHECK(max_difference(basis->out().factor(), want->out().factor()) <= tolerance);
        CHECK(max_difference(basis->in().factor(), want->in().factor()) <= tolerance);
      }
    }
  }
  for (index_t i = 0; i < want->rows(); ++i) {
    T largest = 0;
    for (index_t j = 0; j < want->out_extent(); ++j)
      if (std::abs(want->out().factor()(i, j)) > std::abs(largest)) largest = want->out().factor()(i, j);
    CHECK(largest > 0);
  }
  // Another backend's arithmetic: the same vectors with the same signs.
  backend::Reference::Context reference(1);
  const auto small = planted_stack<T>(4, 20, 15, 5, 0.7, 2);
  typename B::Context ctx(2);
  const auto a = TuckerBasis<T, B>::fit(ctx, summed<T, B>(ctx, small.gradients), SideRecipe::hosvd(5),
                                        SideRecipe::hosvd(5));
  const auto b = TuckerBasis<T, backend::Reference>::fit(
      reference, summed<T, backend::Reference>(reference, small.gradients), SideRecipe::hosvd(5),
      SideRecipe::hosvd(5));
  CHECK(max_difference(a->out().factor(), b->out().factor()) <= 1e4 * S::eps);
  CHECK(max_difference(a->in().factor(), b->in().factor()) <= 1e4 * S::eps);
}

TEST_CASE("tucker basis: near ties of magnitude do not decide a sign") {
  // Entries of equal size but for rounding: the first one decides.
  CHECK(detail::sign_of({-0.5, 0.5 + 1e-9, 0.5, 0.5}) == -1);
  CHECK(detail::sign_of({-0.5 - 1e-9, 0.5, 0.5, 0.5}) == -1);
  CHECK(detail::sign_of({-0.4, 0.5, -0.5 - 1e-9, 0.5}) == 1);
  CHECK(detail::sign_of({0, 0}) == 1);
  CHECK(detail::sign_of({}) == 1);
}

TEST_CASE("tucker basis: eigenvalues that rounding made negative are 0") {
  backend::Reference::Context ctx(1);
  std::vector<double> a{-1e-9, 0, 0, 2};
  CHECK(detail::eigenpairs<backend::Reference>(ctx, MatrixView<double>(a.data(), 2, 2)) ==
        std::vector<double>{2, 0});
}

TEST_CASE("tucker basis: what a sketch's noise leaves of a spectrum makes no energy") {
  // A = e1 e1^T with Omega = I and, in Y = A Omega, the rounding of a product in float. Y (Omega^T
  // Y)^+ Y^T would make 1 of the 1e-12 that stands in the place of an eigenvalue 0.
  backend::Reference::Context ctx(1);
  const std::vector<float> omega{1, 0, 0, 1};
  const std::vector<double> y{1, 1e-6, 0, 1e-12};
  Buffer<double, backend::Reference> vectors;
  index_t rank = 0;
  const std::vector<double> energies =
      detail::nystroem<float, backend::Reference>(ctx, MatrixView<const float>(omega.data(), 2, 2),
                                                  MatrixView<const double>(y.data(), 2, 2), vectors, rank);
  CHECK(rank == 1);
  REQUIRE(energies.size() == 1);
  CHECK(energies[0] == doctest::Approx(1));
}

TEST_CASE_TEMPLATE("tucker basis: sketched sides", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  constexpr bool plain = std::is_same_v<B, backend::Reference>;
  const index_t in = plain ? 300 : sizeof(T) == 4 ? 11008 : 1511;
  const auto stack = planted_stack<T>(4, 12, in, 5, 0.8, 31);
  HosvdOptions options;
  options.gram_limit_bytes = in * 24 * 16;  // Gram: in * in * 8
  const auto sums = summed<T, B>(ctx, stack.gradients, options);
  CHECK(sums.sketched(GradientSide::in));
  CHECK(sums.bytes() <= options.gram_limit_bytes + 12 * 12 * 8);
  const auto basis = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd(5));
  CHECK(subspace_difference(columns_of(basis->in()), stack.u) <= 1e4 * S::eps);
  CHECK(basis->orthogonality_defect(ctx).in <= 100 * S::eps);
  CHECK(basis->report().in.kept_energy >= 0.9999);
  CHECK(basis->report().in.kept_energy <= 1);
  for (const Matrix<T>& gradient : stack.gradients)
    CHECK(basis->energy(ctx, gradient.view(), 5).basis_top_k >= 0.99);
  CHECK(reconstruction_error(ctx, *basis, stack.gradients) <=
        basis->report().tail_bound() + 1e-3 * std::sqrt(basis->report().total_energy));
  // More vectors than the gradients have: orthonormal all the same.
  const auto more = TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::identity(), SideRecipe::hosvd(15));
  CHECK(more->orthogonality_defect(ctx).in <= 100 * S::eps);
  CHECK(more->cols() == 15);
  CHECK(TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::identity(), SideRecipe::hosvd(Truncation::energy(0.99)))
            ->cols() <= 5);

  const std::string columns = std::to_string(sums.sketch(GradientSide::in).cols);
  const std::string side = "the in side, extent " + std::to_string(in) + ", is sketched with " + columns;
  CHECK(message_of<ValueError>([&] {
          TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd());
        }) == side + " columns: hosvd(full) asks for all vectors; raise gram_limit_bytes or lower the rank");
  CHECK(message_of<ValueError>(
            [&] { TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd(100)); }) ==
        side + " columns: hosvd(rank 100) asks for more vectors; raise gram_limit_bytes or lower the rank");
  CHECK(message_of<ValueError>([&] {
          TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(),
                                 SideRecipe::hosvd(Truncation::custom([](auto) { return index_t{99}; })));
        }) == side + " columns: hosvd(custom) asks for 99 vectors; raise gram_limit_bytes or lower the rank");
}

TEST_CASE_TEMPLATE("tucker basis: no energy, empty extents, extent 1", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  HosvdAccumulator<T, B> sums(ctx, 4, 3);
  sums.add(ctx, Matrix<T>(4, 3).view());
  const auto zero =
      TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd(Truncation::energy(0.9)));
  CHECK(zero->rows() == 4);
  CHECK(zero->cols() == 1);
  CHECK(zero->orthogonality_defect(ctx).out <= 10 * S::eps);
  CHECK(zero->report().in.kept_energy == 1);
  CHECK(zero->report().tail_bound() == 0);
  const EnergyFractions shares = zero->energy(ctx, Matrix<T>(4, 3).view(), 2);
  CHECK(shares.raw_top_k == 0);
  CHECK(shares.kept_block == 0);
  HosvdOptions options;
  options.gram_limit_bytes = 64;  // in side: 72 bytes of Gram
  HosvdAccumulator<T, B> sketch(ctx, 2, 3, options);
  sketch.add(ctx, Matrix<T>(2, 3).view());
  CHECK(TuckerBasis<T, B>::fit(ctx, sketch, SideRecipe::hosvd(), SideRecipe::hosvd(1))
            ->orthogonality_defect(ctx)
            .in <= 10 * S::eps);

  HosvdAccumulator<T, B> empty(ctx, 0, 3);
  empty.add(ctx, Matrix<T>(0, 3).view());
  const auto none = TuckerBasis<T, B>::fit(ctx, empty, SideRecipe::hosvd(), SideRecipe::hosvd());
  CHECK(none->rows() == 0);
  CHECK(none->cols() == 3);
  Matrix<T> core(0, 3);
  CHECK_NOTHROW(none->project(ctx, Matrix<T>(0, 3).view(), core.view()));

  HosvdAccumulator<T, B> one(ctx, 1, 1);
  one.add(ctx, Matrix<T>(1, 1, T(-2)).view());
  const auto scalar = TuckerBasis<T, B>::fit(ctx, one, SideRecipe::hosvd(), SideRecipe::hosvd());
  CHECK(scalar->out().factor()(0, 0) == 1);
  CHECK(scalar->report().out.spectrum[0] == doctest::Approx(4));
}

TEST_CASE("tucker basis: given factors, given sides, other backends") {
  backend::Cpu::Context ctx(1);
  using Basis = TuckerBasis<double>;
  Matrix<double> v = orthonormal_columns(9, 4, 1);
  const Matrix<double> u = orthonormal_columns(6, 6, 2);
  const auto basis = Basis::from_factors(ctx, v.view(), u.view());
  CHECK(basis->rows() == 4);
  CHECK(basis->cols() == 6);
  CHECK(max_difference(columns_of(basis->out()), v) == 0);
  CHECK(std::isnan(basis->report().out.kept_energy));
  CHECK(basis->report().in.kept_energy == 1);
  CHECK(basis->report().out.spectrum.empty());
  v(2, 1) += 0.5;
  const std::string text = message_of<ValueError>([&] { Basis::from_factors(ctx, v.view(), u.view()); });
  CHECK(text.starts_with("the columns of V are not orthonormal: max |V^T V - I| is "));
  CHECK(text.ends_with(", expected at most 1e-09"));
  CHECK_NOTHROW(Basis::from_factors(ctx, v.view(), u.view(), 2.0));
  CHECK_THROWS_AS(Basis::from_factors(ctx, Matrix<double>(3, 2, NAN).view(), u.view()), ValueError);
  // From raw pointers.
  v(2, 1) -= 0.5;
  const Basis::Pointer same = Basis::from_factors(ctx, {v.data.data(), 9, 4}, {u.data.data(), 6, 6});
  CHECK(max_difference(same->out().factor(), basis->out().factor()) < 1e-15);
  CHECK(max_difference(same->in().factor(), basis->in().factor()) == 0);

  backend::Reference::Context reference(1);
  const auto moved = basis->to<backend::Reference>(ctx, reference);
  CHECK(max_difference(moved->in().factor(), basis->in().factor()) == 0);
  CHECK(moved->bytes() == basis->bytes());

  const auto identity = Basis::identity(5, 3);
  CHECK(identity->bytes() == 0);
  const Matrix<double> g = random_matrix<double>(5, 3, 1);
  Matrix<double> core(5, 3);
  identity->project(ctx, g.view(), core.view());
  CHECK(core.data == g.data);

  // A random side has no more vectors than its extent.
  const auto capped = Basis::from_recipes(ctx, 5, 3, SideRecipe::random(4), SideRecipe::random(40));
  CHECK(capped->rows() == 4);
  CHECK(capped->cols() == 3);

  // Square gradients: the two sides of one seed differ.
  const auto random = Basis::from_recipes(ctx, 8, 8, SideRecipe::random(), SideRecipe::random());
  CHECK(max_difference(random->out().factor(), random->in().factor()) > 0.1);
  const auto fast = Basis::from_recipes(ctx, 32, 32, SideRecipe::hadamard(), SideRecipe::hadamard());
  CHECK(fast->out().host_signs(ctx) != fast->in().host_signs(ctx));
  CHECK(fast->bytes() == 2 * 32 * 8);
  CHECK(std::isnan(
      Basis::from_recipes(ctx, 8, 8, SideRecipe::random(3), SideRecipe::random())->report().out.kept_energy));
}

TEST_CASE("tucker basis: refusals") {
  backend::Cpu::Context ctx(1);
  using Basis = TuckerBasis<float>;
  HosvdAccumulator<float> sums(ctx, 4, 3);
  CHECK(message_of<StateError>([&] { Basis::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::identity()); }) ==
        "recipe hosvd(full) of the out side needs gradients, and none was added");
  CHECK(
      message_of<StateError>(
          [&] { Basis::from_recipes(ctx, 4, 3, SideRecipe::identity(), SideRecipe::hosvd(2)); }) ==
      "recipe hosvd(rank 2) of the in side needs gradients, and this accumulator was made without that side");
  CHECK_NOTHROW(Basis::fit(ctx, sums, SideRecipe::identity(), SideRecipe::random(2)));
  sums.add(ctx, random_matrix<float>(4, 3, 1).view());
  const auto basis = Basis::fit(ctx, std::move(sums), SideRecipe::hosvd(2), SideRecipe::hosvd());
  Matrix<float> g(4, 3);
  Matrix<float> core(2, 3);
  CHECK(message_of<ShapeError>([&] { basis->project(ctx, core.view(), core.view()); }) ==
        "gradient is 2x3, expected 4x3 (out x in of the basis)");
  CHECK(message_of<ShapeError>([&] { basis->project(ctx, g.view(), g.view()); }) ==
        "core is 4x3, expected 2x3 (rows x cols of the core)");
  CHECK_THROWS_AS(basis->expand(ctx, g.view(), 0, g.view()), ShapeError);
  CHECK(message_of<ValueError>([&] { basis->energy(ctx, g.view(), -1); }) == "k is -1, expected k >= 0");
  g(1, 1) = NAN;
  CHECK(message_of<NonFiniteError>([&] { basis->energy(ctx, g.view(), 1); }) ==
        "energy: the gradient's squared norm is not finite");
  CHECK(message_of<ValueError>([&] { Basis::identity(3, 4)->with_transposed_input(ctx); }) ==
        "with_transposed_input: the in side is identity of rank 4, expected a stored one of full rank 4");
}
