#include "sparsegrad/basis_side.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

/// The side's matrix U [n, r], column by column, from nothing but expand_rows.
template <class T, class B>
Matrix<T> matrix_of(typename B::Context& ctx, const BasisSide<T, B>& side) {
  Matrix<T> unit(side.rank(), side.rank());
  for (index_t i = 0; i < side.rank(); ++i)
    unit(i, i) = 1;
  Matrix<T> u(side.extent(), side.rank(), std::numeric_limits<T>::quiet_NaN());
  side.expand_rows(ctx, unit.view(), T(0), u.view());
  return u;
}

/// H = ((I - 2/m 1 1^T) (x) H_b) diag(signs), from its definition.
template <class T>
Matrix<double> hadamard(const std::vector<T>& signs) {
  const auto n = static_cast<index_t>(signs.size());
  index_t b = 1;
  while (n > 0 && n % (2 * b) == 0)
    b *= 2;
  const index_t m = n / b;
  Matrix<double> small(b, b, 1 / std::sqrt(static_cast<double>(b)));
  for (index_t half = 1; half < b; half *= 2)  // Sylvester: [H H; H -H]
    for (index_t i = 0; i < b; ++i)
      for (index_t j = 0; j < b; ++j)
        if ((i & half) != 0 && (j & half) != 0) small(i, j) = -small(i, j);
  Matrix<double> h(n, n);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      const double mix = (i / b == j / b ? 1.0 : 0.0) - (m == 1 ? 0.0 : 2.0 / static_cast<double>(m));
      h(i, j) = mix * small(i % b, j % b) * static_cast<double>(signs[static_cast<std::size_t>(j)]);
    }
  }
  return h;
}

template <class T, class B>
void check_operations(typename B::Context& ctx, const BasisSide<T, B>& side, double tolerance) {
  const index_t n = side.extent();
  const index_t r = side.rank();
  const Matrix<T> u = matrix_of(ctx, side);
  for (const index_t t : {index_t{0}, index_t{1}, index_t{5}}) {
    CAPTURE(t);
    const Matrix<T> tall = random_matrix<T>(t, n, 1);
    const Matrix<T> flat = random_matrix<T>(n, t, 2);
    Matrix<T> y_tall(t, r, std::numeric_limits<T>::quiet_NaN());
    Matrix<T> y_flat(r, t, std::numeric_limits<T>::quiet_NaN());
    side.project_columns(ctx, tall.view(), y_tall.view());
    side.project_rows(ctx, flat.view(), y_flat.view());
    CHECK(max_difference(y_tall, product(tall, u)) <= tolerance);
    CHECK(max_difference(y_flat, product(u, flat, true)) <= tolerance);
    for (const double beta : {0.0, 1.0, -0.5}) {
      CAPTURE(beta);
      const T start = beta == 0 ? std::numeric_limits<T>::quiet_NaN() : T(3);
      Matrix<T> a_tall(t, n, start);
      Matrix<T> a_flat(n, t, start);
      side.expand_columns(ctx, y_tall.view(), static_cast<T>(beta), a_tall.view());
      side.expand_rows(ctx, y_flat.view(), static_cast<T>(beta), a_flat.view());
      Matrix<double> want_tall = product(y_tall, u, false, true);
      Matrix<double> want_flat = product(u, y_flat);
      for (double& x : want_tall.data)
        x += beta * 3;
      for (double& x : want_flat.data)
        x += beta * 3;
      CHECK(max_difference(a_tall, want_tall) <= tolerance);
      CHECK(max_difference(a_flat, want_flat) <= tolerance);
      if (beta != 0) continue;
      Matrix<T> back_tall(t, r);
      Matrix<T> back_flat(r, t);
      side.project_columns(ctx, a_tall.view(), back_tall.view());
      side.project_rows(ctx, a_flat.view(), back_flat.view());
      CHECK(max_difference(back_tall, y_tall) <= tolerance);
      CHECK(max_difference(back_flat, y_flat) <= tolerance);
    }
  }
  Matrix<double> unit(r, r);
  for (index_t i = 0; i < r; ++i)
    unit(i, i) = 1;
  CHECK(max_difference(product(u, u, true), unit) <= tolerance);
}

}  // namespace

TEST_CASE_TEMPLATE("basis side: all kinds against plain loops", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  using Side = BasisSide<T, B>;
  typename B::Context ctx(2);
  for (const index_t n :
       {index_t{0}, index_t{1}, index_t{2}, index_t{7}, index_t{12}, index_t{16}, index_t{53}}) {
    CAPTURE(n);
    const double tolerance = 200 * S::eps;

    const Side identity = Side::identity(n);
    CHECK(identity.kind() == SideKind::identity);
    CHECK_FALSE(identity.rotates());
    CHECK(identity.bytes() == 0);
    CHECK(identity.factor().size() == 0);
    check_operations(ctx, identity, 10 * S::eps);

    const Side fast = Side::hadamard(ctx, n, 3);
    CHECK(fast.kind() == SideKind::hadamard);
    CHECK(fast.rank() == n);
    CHECK(fast.bytes() == n * static_cast<index_t>(sizeof(T)));
    check_operations(ctx, fast, tolerance);
    // U^T = H, not H^T.
    const Matrix<double> h = hadamard(fast.host_signs(ctx));
    const Matrix<T> u = matrix_of(ctx, fast);
    double worst = 0;
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j)
        worst = std::max(worst, std::abs(static_cast<double>(u(i, j)) - h(j, i)));
    CHECK(worst <= tolerance);

    for (const index_t r : {index_t{0}, (n + 1) / 2, n}) {
      CAPTURE(r);
      const Side random = Side::random(ctx, n, r, 5);
      CHECK(random.kind() == SideKind::random);
      CHECK(random.rank() == r);
      CHECK(random.bytes() == r * n * static_cast<index_t>(sizeof(T)));
      CHECK(random.factor().rows == r);
      check_operations(ctx, random, tolerance);

      const Matrix<double> columns = orthonormal_columns(n, r, 9);
      Matrix<T> factor(n, r + 2, T(7));  // a stride beyond the columns
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < r; ++j)
          factor(i, j) = static_cast<T>(columns(i, j));
      const Side given = Side::from_factor(ctx, factor.view().block(0, 0, n, r));
      CHECK(given.kind() == SideKind::factor);
      check_operations(ctx, given, tolerance);
      CHECK(max_difference(matrix_of(ctx, given), factor.view().block(0, 0, n, r)) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("basis side: long inputs of a fast transform", S, Setup<float, backend::Cpu>,
                   Setup<double, backend::CpuBlas>) {
  // More than one piece of the bounded scratch memory.
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  const index_t n = 96;
  const index_t t = 23001;
  const auto side = BasisSide<T, B>::hadamard(ctx, n, 8);
  const Matrix<T> tall = random_matrix<T>(t, n, 4);
  const Matrix<T> flat = random_matrix<T>(n, t, 5);
  Matrix<T> sum_tall = tall;
  Matrix<T> sum_flat = flat;
  Matrix<T> y(t, n);
  Matrix<T> z(n, t);
  side.project_columns(ctx, tall.view(), y.view());
  side.expand_columns(ctx, y.view(), T(-1), sum_tall.view());
  side.project_rows(ctx, flat.view(), z.view());
  side.expand_rows(ctx, z.view(), T(-1), sum_flat.view());
  CHECK(max_difference(sum_tall, Matrix<T>(t, n)) <= 100 * S::eps);
  CHECK(max_difference(sum_flat, Matrix<T>(n, t)) <= 100 * S::eps);
}

TEST_CASE("basis side: seeds, and the same sides on every backend") {
  backend::Cpu::Context ctx(1);
  backend::Reference::Context reference(1);
  backend::CpuBlas::Context blas(3);
  const auto a = BasisSide<double>::random(ctx, 70, 41, 5);
  const auto b = BasisSide<double, backend::Reference>::random(reference, 70, 41, 5);
  const auto c = BasisSide<double, backend::CpuBlas>::random(blas, 70, 41, 5);
  CHECK(max_difference(a.factor(), b.factor()) < 1e-12);
  CHECK(max_difference(a.factor(), c.factor()) < 1e-12);
  CHECK(max_difference(a.factor(), BasisSide<double>::random(ctx, 70, 41, 6).factor()) > 0.1);
  // Fewer vectors are the leading ones.
  CHECK(max_difference(BasisSide<double>::random(ctx, 70, 9, 5).factor(), a.factor().block(0, 0, 9, 70)) <
        1e-12);
  const auto f = BasisSide<float>::hadamard(ctx, 64, 2);
  CHECK(f.host_signs(ctx) ==
        BasisSide<float, backend::Reference>::hadamard(reference, 64, 2).host_signs(reference));
  CHECK(f.host_signs(ctx) != BasisSide<float>::hadamard(ctx, 64, 3).host_signs(ctx));

  CHECK(a.to<backend::Reference>(ctx, reference).host_factor(reference) == a.host_factor(ctx));
  CHECK(a.to<backend::Reference>(ctx, reference).kind() == SideKind::random);
  CHECK(f.to<backend::CpuBlas>(ctx, blas).host_signs(blas) == f.host_signs(ctx));
  CHECK(BasisSide<float>::identity(4).clone(ctx).extent() == 4);
  const auto rows = a.host_factor(ctx);
  const auto again = BasisSide<double>::from_host_rows(ctx, 41, 70, rows, SideKind::random);
  CHECK(max_difference(again.factor(), a.factor()) == 0);
}

TEST_CASE("basis side: random sides are uniform enough") {
  // Each entry of a uniform orthonormal frame has variance 1/n; columns are not biased to one sign.
  backend::Cpu::Context ctx(1);
  const auto side = BasisSide<double>::random(ctx, 200, 200, 11);
  double sum = 0;
  double diagonal = 0;
  for (index_t i = 0; i < 200; ++i) {
    diagonal += side.factor()(i, i);
    for (index_t j = 0; j < 200; ++j)
      sum += side.factor()(i, j);
  }
  CHECK(std::abs(sum / std::sqrt(200.0)) < 4);  // a normal number
  CHECK(std::abs(diagonal) < 5);                // the trace of a uniform rotation has variance 1
}

TEST_CASE("basis side: refusals") {
  backend::Cpu::Context ctx(1);
  using Side = BasisSide<float>;
  Matrix<float> a(4, 6);
  Matrix<float> y(4, 3);
  const Side side = Side::random(ctx, 6, 3, 1);
  CHECK(message_of<ShapeError>([&] { side.project_columns(ctx, y.view(), y.view()); }) ==
        "A is 4x3, expected 4x6 (rows x extent of the side)");
  CHECK(message_of<ShapeError>([&] { side.project_columns(ctx, a.view(), a.view()); }) ==
        "A U is 4x6, expected 4x3 (rows x rank of the side)");
  CHECK_THROWS_AS(side.project_rows(ctx, a.view(), y.view()), ShapeError);
  CHECK_THROWS_AS(side.expand_columns(ctx, a.view(), 0, a.view()), ShapeError);
  CHECK_THROWS_AS(side.expand_rows(ctx, y.view(), 0, a.view()), ShapeError);
  CHECK(message_of<ValueError>([&] { Side::random(ctx, 3, 4, 1); }) ==
        "rank of a basis side is 4, expected 0 <= rank <= extent = 3");
  CHECK(message_of<ValueError>([&] { Side::from_factor(ctx, Matrix<float>(2, 3).view()); }) ==
        "rank of a basis side is 3, expected 0 <= rank <= extent = 2");
  CHECK(message_of<ValueError>([&] { Side::identity(-1); }) == "extent of a basis side is -1, expected >= 0");
  CHECK(message_of<ValueError>([&] {
          Side::hadamard_from_signs(ctx, std::vector<float>{1, 0.5F});
        }) == "sign 1 of a Hadamard side is 0.5, expected 1 or -1");
  CHECK(message_of<ShapeError>([&] { Side::from_host_rows(ctx, 2, 3, std::vector<float>(5)); }) ==
        "factor has 5 elements, expected rank * extent = 2 * 3");
  CHECK(message_of<ValueError>([&] {
          Side::from_rows(ctx, Matrix<float>(1, 3).view(), SideKind::identity);
        }) == "a side of kind identity has no factor");
}

TEST_CASE(
    "BasisSide: the signs of a fast transform are those of its seed, on every machine and in every version") {
  // Saved recipes name the seed alone.
  backend::Reference::Context ctx;
  const auto text = [&](std::uint64_t seed) {
    std::string signs;
    for (const float s : BasisSide<float, backend::Reference>::hadamard(ctx, 32, seed).host_signs(ctx))
      signs += s > 0 ? '+' : '-';
    return signs;
  };
  CHECK(text(1) == "-++-+-+++----++-+--+++--+--+-+-+");
  CHECK(text(7) == "-+---++--+-+--+---++------++++++");
  CHECK(text(0xffffffffffffffff) == "--++-++---+++-++++--+-+-+---++-+");
}
