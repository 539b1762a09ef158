#include "sparsegrad/extras/tensor.hpp"

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

TEST_CASE("tensor: the documented unfoldings") {
  backend::Cpu::Context ctx(1);
  std::vector<double> data(12);
  std::iota(data.begin(), data.end(), 1.0);
  const TensorView<double> x(data.data(), 2, 2, 3);
  CHECK(x(1, 0, 2) == 9);
  CHECK(x.slice(1)(1, 0) == 10);
  const auto unfolded = [&](Mode mode, index_t rows, index_t cols) {
    Matrix<double> a(rows, cols);
    unfold<double>(ctx, x, mode, a.view());
    return a.data;
  };
  CHECK(unfolded(Mode::stack, 2, 6) == std::vector<double>{1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12});
  CHECK(unfolded(Mode::out, 2, 6) == std::vector<double>{1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12});
  CHECK(unfolded(Mode::in, 3, 4) == std::vector<double>{1, 7, 4, 10, 2, 8, 5, 11, 3, 9, 6, 12});
}

TEST_CASE_TEMPLATE("tensor: unfold, fold and mode products", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(2);
  const index_t n = 4;
  const index_t out = 5;
  const index_t in = 7;
  Matrix<T> memory = random_matrix<T>(n, out * in, 3);
  const TensorView<T> x(memory.data.data(), n, out, in);
  for (const Mode mode : {Mode::stack, Mode::out, Mode::in}) {
    const index_t rows = x.extent(mode);
    Matrix<T> a(rows, x.size() / rows);
    unfold<T, B>(ctx, x, mode, a.view());
    // Column numbers of Kolda and Bader, equation for matricization: the earlier remaining mode is fastest.
    double wrong = 0;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < out; ++j) {
        for (index_t k = 0; k < in; ++k) {
          const T value = mode == Mode::stack ? a(i, j + out * k)
                          : mode == Mode::out ? a(j, i + n * k)
                                              : a(k, i + n * j);
          if (value != x(i, j, k)) ++wrong;
        }
      }
    }
    CHECK(wrong == 0);
    Matrix<T> back(n, out * in);
    fold<T, B>(ctx, a.view(), mode, TensorView<T>(back.data.data(), n, out, in));
    CHECK(back.data == memory.data);

    // Y_(mode) = M X_(mode).
    const Matrix<T> m = random_matrix<T>(3, rows, 8);
    const index_t yn = mode == Mode::stack ? 3 : n;
    const index_t yout = mode == Mode::out ? 3 : out;
    const index_t yin = mode == Mode::in ? 3 : in;
    Matrix<T> y_memory(yn, yout * yin);
    const TensorView<T> y(y_memory.data.data(), yn, yout, yin);
    mode_product<T, B>(ctx, x, mode, m.view(), y);
    Matrix<T> y_unfolded(3, y.size() / 3);
    unfold<T, B>(ctx, y, mode, y_unfolded.view());
    CHECK(max_difference(y_unfolded, product(m, a)) <= 100 * S::eps);
  }
  CHECK(norm<T, B>(ctx, x) == doctest::Approx(std::sqrt(energy_of(memory))));
  CHECK(distance<T, B>(ctx, x, x) == 0);
  Matrix<T> other = memory;
  other(2, 5) += T(3);
  CHECK(distance<T, B>(ctx, x, TensorView<T>(other.data.data(), n, out, in)) == doctest::Approx(3));
}

TEST_CASE_TEMPLATE("tensor: cores are mode products with V^T and U^T, and stand for the stack", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  typename B::Context ctx(1);
  const auto basis = TuckerBasis<T, B>::from_recipes(ctx, 6, 8, SideRecipe::random(4), SideRecipe::random());
  Matrix<T> memory = random_matrix<T>(3, 48, 3);
  const TensorView<T> x(memory.data.data(), 3, 6, 8);
  Matrix<T> cores_memory(3, 32);
  Matrix<T> half_memory(3, 32);
  Matrix<T> want_memory(3, 32);
  const TensorView<T> cores(cores_memory.data.data(), 3, 4, 8);
  const TensorView<T> half(half_memory.data.data(), 3, 4, 8);
  const TensorView<T> want(want_memory.data.data(), 3, 4, 8);
  project<T>(ctx, *basis, x, cores);
  mode_product<T, B>(ctx, x, Mode::out, basis->out().factor(), half);
  mode_product<T, B>(ctx, half, Mode::in, basis->in().factor(), want);
  CHECK(max_difference(cores_memory, want_memory) <= 100 * S::eps);
  Matrix<T> again_memory(3, 48);
  const TensorView<T> again(again_memory.data.data(), 3, 6, 8);
  reconstruct<T>(ctx, *basis, cores, again);
  project<T>(ctx, *basis, again, half);
  CHECK(max_difference(half_memory, cores_memory) <= 100 * S::eps);
}

TEST_CASE("tensor: refusals and empty stacks") {
  backend::Cpu::Context ctx(1);
  std::vector<float> data(24);
  const TensorView<float> x(data.data(), 2, 3, 4);
  Matrix<float> a(3, 7);
  CHECK(message_of<ShapeError>([&] { unfold<float>(ctx, x, Mode::out, a.view()); }) ==
        "unfolding is 3x7, expected 3x8 (extent of the mode x product of the other two)");
  CHECK_THROWS_AS(fold<float>(ctx, a.view(), Mode::in, x), ShapeError);
  CHECK(message_of<ShapeError>([&] { mode_product<float>(ctx, x, Mode::in, a.view(), x); }) ==
        "M is 3x7, expected 3x4 (rows x extent of the mode)");
  CHECK(message_of<ShapeError>([&] {
          mode_product<float>(ctx, x, Mode::out, Matrix<float>(2, 3).view(), x);
        }) == "mode product is 2x3x4, expected 2x2x4 (n x out x in)");
  CHECK_THROWS_AS(distance<float>(ctx, x, TensorView<float>(data.data(), 2, 4, 3)), ShapeError);
  CHECK(message_of<ShapeError>([&] { TensorView<float>(nullptr, 1, 2, 3); }) ==
        "tensor view of 1x2x3: expected extents >= 0 whose product is below 2^63, and data that is not null");
  const index_t large = index_t{1} << 32;  // large * large * 4 is 0 in 64 bits
  CHECK_THROWS_AS(TensorView<float>(data.data(), large, large, 4), ShapeError);
  CHECK_THROWS_AS(TensorView<float>(nullptr, large, large, 4), ShapeError);
  const auto basis = TuckerBasis<float>::identity(3, 4);
  CHECK_THROWS_AS(project<float>(ctx, *basis, x, TensorView<float>(data.data(), 2, 4, 3)), ShapeError);
  const TensorView<float> none(nullptr, 0, 3, 4);
  Matrix<float> empty(3, 0);
  CHECK_NOTHROW(unfold<float>(ctx, none, Mode::out, empty.view()));
  CHECK(norm<float>(ctx, none) == 0);
  CHECK(distance<float>(ctx, none, none) == 0);
}
