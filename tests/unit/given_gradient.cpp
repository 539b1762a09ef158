// GivenGradient: the core of a dW that the engine keeps, against plain loops.
#include <sparsegrad/given_gradient.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/reference.hpp>

#include "support/layer_oracle.hpp"

namespace sparsegrad::test {  // cblas.h may have a bfloat16 of its own, outside of namespaces
namespace {

using oracle::Matrix;

/// Sums in C, gradients stored in S.
template <class C_, class S_, class B_>
struct Setup {
  using C = C_;
  using S = S_;
  using B = B_;
};
#define SPARSEGRAD_GIVEN_SETUPS                                                              \
  Setup<float, float, backend::Reference>, Setup<double, double, backend::Reference>,        \
      Setup<float, bfloat16, backend::Reference>, Setup<float, float16, backend::Reference>, \
      Setup<float, float, backend::Cpu>, Setup<float, bfloat16, backend::Cpu>,               \
      Setup<float, float16, backend::Cpu>, Setup<double, double, backend::CpuBlas>,          \
      Setup<float, bfloat16, backend::CpuBlas>, Setup<float, float16, backend::CpuBlas>

/// A gradient as an engine stores it, in S, with NaN between the rows, and a copy to see that nothing changes it.
template <class S>
struct Stored {
  index_t rows, cols, stride;
  std::vector<S> data, copy;

  Stored(const Matrix& m, index_t padding)
      : rows(m.rows),
        cols(m.cols),
        stride(m.cols + padding),
        data(static_cast<std::size_t>(rows * stride), S(std::numeric_limits<float>::quiet_NaN())) {
    for (int i = 0; i < m.rows; ++i)
      for (int j = 0; j < m.cols; ++j)
        data[static_cast<std::size_t>(i * stride + j)] = S(static_cast<compute_t<S>>(m(i, j)));
    copy = data;
  }
  MatrixView<const S> view() const { return {data.data(), rows, cols, stride}; }
  bool untouched() const { return std::memcmp(data.data(), copy.data(), data.size() * sizeof(S)) == 0; }
};

/// What S keeps of a matrix.
template <class S>
Matrix rounded(Matrix m) {
  for (double& x : m.data)
    x = static_cast<double>(static_cast<compute_t<S>>(S(static_cast<compute_t<S>>(x))));
  return m;
}

template <class T>
Matrix matrix_of(MatrixView<T> v) {
  Matrix m(static_cast<int>(v.rows), static_cast<int>(v.cols));
  for (int i = 0; i < m.rows; ++i)
    for (int j = 0; j < m.cols; ++j)
      m(i, j) = static_cast<double>(v(i, j));
  return m;
}

double difference(const Matrix& a, const Matrix& b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  double worst = 0;
  for (std::size_t e = 0; e < a.data.size(); ++e) {
    const double d = std::abs(a.data[e] - b.data[e]);
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst;
}

/// A side of a basis with its matrix, which is read off the side where the side makes it itself.
template <class C, class B>
struct Side {
  BasisSide<C, B> side;
  Matrix matrix;
};

template <class C, class B>
Side<C, B> side_of(typename B::Context& ctx, const std::string& kind, int n, oracle::Random& random) {
  Matrix eye(n, n);
  for (int i = 0; i < n; ++i)
    eye(i, i) = 1;
  if (kind == "identity") return {BasisSide<C, B>::identity(n), eye};
  if (kind == "hadamard" || kind == "random") {
    auto side =
        kind == "random" ? BasisSide<C, B>::random(ctx, n, n / 2, 3) : BasisSide<C, B>::hadamard(ctx, n, 5);
    const std::vector<C> unit(eye.data.begin(), eye.data.end());
    std::vector<C> u(static_cast<std::size_t>(n * side.rank()));
    const MatrixView<C> u_view(u.data(), n, side.rank());
    side.project_columns(ctx, MatrixView<const C>(unit.data(), n, n), u_view);  // I U = U
    return {std::move(side), matrix_of(u_view)};
  }
  const int rank = kind == "full" ? n : std::max(1, n / 3);
  const Matrix u = random.orthonormal(n, rank);
  const std::vector<C> factor(u.data.begin(), u.data.end());
  return {BasisSide<C, B>::from_factor(ctx, MatrixView<const C>(factor.data(), n, rank)), u};
}

Matrix core_of(const Matrix& v, const Matrix& dw, const Matrix& u) {
  return oracle::product(oracle::product(oracle::transposed(v), dw), u);
}

template <class C>
double tolerance() {
  return std::is_same_v<C, float> ? 2e-5 : 1e-13;
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE_TEMPLATE("the core of a given gradient is V^T dW U", S, SPARSEGRAD_GIVEN_SETUPS) {
  using C = typename S::C;
  using B = typename S::B;
  using Given = GivenGradient<C, B>;
  typename B::Context ctx(2);
  const char* kinds[] = {"identity", "full", "truncated", "hadamard", "random"};
  for (const auto& [out, in] : {std::pair(12, 6), std::pair(5, 16)}) {
    for (const std::string out_kind : kinds) {
      for (const std::string in_kind : kinds) {
        for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
          for (const index_t padding : {0, 3}) {
            CAPTURE(out);
            CAPTURE(out_kind);
            CAPTURE(in_kind);
            CAPTURE(static_cast<int>(layout));
            CAPTURE(padding);
            oracle::Random random(7);
            auto v = side_of<C, B>(ctx, out_kind, out, random);
            auto u = side_of<C, B>(ctx, in_kind, in, random);
            const Matrix dw = rounded<typename S::S>(random.matrix(out, in));
            const Stored<typename S::S> stored(layout == WeightLayout::out_in ? dw : oracle::transposed(dw),
                                               padding);
            const WeightGradientView<C> view{stored.view(), layout};
            const Matrix expected = core_of(v.matrix, dw, u.matrix);
            Matrix twice = dw;
            for (double& x : twice.data)
              x *= 2;

            Given gradient(ctx, out, in);
            gradient.set_basis(ctx, TuckerBasis<C, B>::from_sides(std::move(v.side), std::move(u.side)));
            gradient.reserve(ctx, 0);
            CHECK_FALSE(gradient.has_gradient());
            gradient.set(view);
            CHECK(gradient.accumulating());
            CHECK_FALSE(gradient.finished());
            const MatrixView<const C> core = gradient.core(ctx);
            CHECK(core.contiguous());
            CHECK(difference(matrix_of(core), expected) < tolerance<C>());
            CHECK(gradient.finished());
            CHECK(gradient.core(ctx).data == core.data);
            // Without a basis a contiguous gradient in C is its own core, where it stands.
            const bool itself = out_kind == "identity" && in_kind == "identity" &&
                                std::is_same_v<C, typename S::S> && layout == WeightLayout::out_in &&
                                padding == 0;
            CHECK((static_cast<const void*>(core.data) == static_cast<const void*>(stored.data.data())) ==
                  itself);
            if (itself) CHECK(gradient.bytes() == 0);

            // A core of one's own may be changed, and is then what core gives; the engine's memory is not.
            const MatrixView<C> own = gradient.own_core(ctx);
            CHECK(static_cast<const void*>(own.data) != static_cast<const void*>(stored.data.data()));
            CHECK(difference(matrix_of(own), expected) < tolerance<C>());
            for (index_t e = 0; e < own.size(); ++e)
              own.data[e] += C(1);
            CHECK(gradient.core(ctx).data == own.data);
            CHECK(gradient.own_core(ctx).data[own.size() - 1] == own.data[own.size() - 1]);
            CHECK(difference(matrix_of(gradient.core(ctx)), expected) > 0.9);
            CHECK(stored.untouched());
            gradient.clear();
            CHECK_FALSE(gradient.has_gradient());

            // dW of one's own, changed in place: the core is made from that.
            gradient.set(view);
            const MatrixView<C> whole = gradient.weight_gradient(ctx);
            CHECK(difference(matrix_of(whole), dw) == 0);
            for (index_t e = 0; e < whole.size(); ++e)
              whole.data[e] *= C(2);
            CHECK(difference(matrix_of(gradient.weight_gradient(ctx)), twice) == 0);
            CHECK(difference(matrix_of(gradient.core(ctx)), oracle::sum(expected, expected)) <
                  2 * tolerance<C>());
            CHECK(stored.untouched());
            gradient.clear();
            // And nothing of it is left.
            gradient.set(view);
            CHECK(difference(matrix_of(gradient.core(ctx)), expected) < tolerance<C>());
            CHECK(stored.untouched());
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a gradient of more than one block of rows", S, Setup<float, bfloat16, backend::Reference>,
                   Setup<float, float16, backend::Cpu>, Setup<float, bfloat16, backend::CpuBlas>,
                   Setup<float, float, backend::CpuBlas>) {
  using C = typename S::C;
  using B = typename S::B;
  typename B::Context ctx(2);
  oracle::Random random(3);
  // 1 MiB of floats are 374 rows of 700, or 403 of 650.
  const int out = 700;
  const int in = 650;
  const Matrix dw = rounded<typename S::S>(random.matrix(out, in));
  const auto small = [&](int n) {  // few vectors, unit ones, so that plain loops are fast
    Matrix u(n, 4);
    for (int r = 0; r < 4; ++r)
      u(n / 7 * (r + 1) + 100 * (r % 2), r) = 1;
    u(n - 1, 3) = 0;
    return u;
  };
  const Matrix v = small(out);
  const Matrix u = small(in);
  const auto side = [&](const Matrix& m) {
    const std::vector<C> factor(m.data.begin(), m.data.end());
    return BasisSide<C, B>::from_factor(ctx, MatrixView<const C>(factor.data(), m.rows, m.cols));
  };
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    const Stored<typename S::S> stored(layout == WeightLayout::out_in ? dw : oracle::transposed(dw), 1);
    for (int which = 0; which < 4; ++which) {
      CAPTURE(which);
      CAPTURE(static_cast<int>(layout));
      const bool left = which % 2 == 1;
      const bool right = which / 2 == 1;
      GivenGradient<C, B> gradient(ctx, out, in);
      gradient.set_basis(ctx, TuckerBasis<C, B>::from_sides(left ? side(v) : BasisSide<C, B>::identity(out),
                                                            right ? side(u) : BasisSide<C, B>::identity(in)));
      gradient.set({stored.view(), layout});
      Matrix expected = dw;
      if (left) expected = oracle::product(oracle::transposed(v), expected);
      if (right) expected = oracle::product(expected, u);
      // Products with unit vectors are exact.
      CHECK(difference(matrix_of(gradient.core(ctx)), expected) == 0);
      CHECK(stored.untouched());
    }
  }
}

TEST_CASE_TEMPLATE("accumulators get the same sums as from dW [out, in] in C", S, SPARSEGRAD_GIVEN_SETUPS) {
  using C = typename S::C;
  using B = typename S::B;
  typename B::Context ctx(2);
  oracle::Random random(13);
  const int out = 9;
  const int in = 14;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    for (const index_t padding : {0, 2}) {
      for (const bool owned : {false, true}) {
        HosvdAccumulator<C, B> sums(ctx, out, in);
        HosvdAccumulator<C, B> expected(ctx, out, in);
        GivenGradient<C, B> gradient(ctx, out, in);
        for (int step = 0; step < 3; ++step) {
          const Matrix dw = rounded<typename S::S>(random.matrix(out, in));
          const std::vector<C> plain(dw.data.begin(), dw.data.end());
          expected.add(ctx, MatrixView<const C>(plain.data(), out, in));
          const Stored<typename S::S> stored(layout == WeightLayout::out_in ? dw : oracle::transposed(dw),
                                             padding);
          gradient.form_weight_gradient(ctx, true);
          gradient.set({stored.view(), layout});
          if (owned) (void)gradient.weight_gradient(ctx);
          gradient.add_to(ctx, sums, NonFinite::raise);
          (void)gradient.core(ctx);
          gradient.clear();
          CHECK(stored.untouched());
        }
        CHECK(sums.count() == 3);
        CHECK(sums.total_energy() == doctest::Approx(expected.total_energy()).epsilon(1e-12));
        for (const GradientSide side : {GradientSide::out, GradientSide::in}) {
          const auto found = matrix_of(sums.gram(side));
          const auto want = matrix_of(expected.gram(side));
          // Another layout adds up in another order, in double.
          if (layout == WeightLayout::out_in || owned) {
            CHECK(found.data == want.data);
          } else {
            CHECK(difference(found, want) < 1e-12);
          }
        }
        // NaN: refused, or left out.
        Matrix bad = random.matrix(out, in);
        bad.data[17] = std::numeric_limits<double>::quiet_NaN();
        const Stored<typename S::S> stored(layout == WeightLayout::out_in ? bad : oracle::transposed(bad),
                                           padding);
        gradient.set({stored.view(), layout});
        CHECK_THROWS_AS(gradient.add_to(ctx, sums, NonFinite::raise), NonFiniteError);
        gradient.add_to(ctx, sums, NonFinite::skip);
        CHECK(sums.count() == 3);
      }
    }
  }
}

TEST_CASE("a gradient that stands is there in every step, and one that is set takes its place for one") {
  using B = backend::Reference;
  B::Context ctx;
  std::vector<double> stands(6, 1.0);
  const std::vector<double> other(6, 5.0);
  GivenGradient<double, B> gradient(ctx, 2, 3);
  gradient.keep({MatrixView<const double>(stands.data(), 2, 3)});
  CHECK(gradient.has_gradient());
  CHECK_FALSE(gradient.accumulating());
  CHECK(gradient.core(ctx).data[4] == 1);
  CHECK(gradient.standing_gradient().data == stands.data());
  gradient.clear();
  stands[4] = 2;
  CHECK(gradient.core(ctx).data[4] == 2);
  gradient.clear();
  gradient.set({MatrixView<const double>(other.data(), 2, 3)});
  CHECK(gradient.core(ctx).data == other.data());
  gradient.clear();
  CHECK(gradient.has_gradient());
  CHECK(gradient.core(ctx).data == stands.data());
}

TEST_CASE("wrong gradients and calls are refused and change nothing") {
  using B = backend::Reference;
  B::Context ctx;
  const std::vector<double> dw(6, 1.0);
  const std::vector<bfloat16> halves(6);
  const MatrixView<const double> view(dw.data(), 2, 3);
  CHECK(message_of([&] { GivenGradient<double, B>(ctx, 0, 3); }) ==
        "weight is 0x3, expected positive extents");
  GivenGradient<double, B> gradient(ctx, 2, 3);
  CHECK(message_of([&] {
          gradient.set({view, WeightLayout::in_out});
        }) == "dW is 2x3, expected 3x2 (in x out)");
  CHECK(message_of([&] { gradient.set({MatrixView<const double>(dw.data(), 3, 2)}); }) ==
        "dW is 3x2, expected 2x3 (out x in)");
  CHECK(message_of([&] { gradient.keep({MatrixView<const double>()}); }) ==
        "dW is 0x0, expected 2x3 (out x in)");
  CHECK(message_of([&] { gradient.set({MatrixView<const bfloat16>(halves.data(), 2, 3)}); }) ==
        "a gradient of 16 bits goes with float sums, expected one of the weight's own type");
  CHECK_FALSE(gradient.has_gradient());
  HosvdAccumulator<double, B> sums(ctx, 2, 3);
  CHECK(message_of([&] { gradient.add_to(ctx, sums, NonFinite::raise); }) ==
        "add_to: there is no gradient, or its core was already asked for");
  // Without a gradient dW and core are 0.
  CHECK(difference(matrix_of(gradient.weight_gradient(ctx)), Matrix(2, 3)) == 0);
  CHECK(difference(matrix_of(gradient.core(ctx)), Matrix(2, 3)) == 0);
  CHECK(message_of([&] { gradient.set({view}); }) ==
        "set_gradient: the core of this step is finished; call step or clear first");
  CHECK(message_of([&] { (void)gradient.weight_gradient(ctx); }) ==
        "weight_gradient: the core of this step is finished");
  CHECK(message_of([&] { gradient.set_basis(ctx, nullptr); }) ==
        "set_basis: a gradient is being accumulated; call clear first");
  gradient.clear();
  CHECK(message_of([&] { gradient.set_basis(ctx, TuckerBasis<double, B>::identity(3, 2)); }) ==
        "basis is 3x2, expected 2x3 (out x in of the weight)");
  // One after the other, before the core is asked for: the last counts.
  const std::vector<double> last(6, 4.0);
  gradient.set({view});
  gradient.set({MatrixView<const double>(last.data(), 2, 3)});
  CHECK(gradient.core(ctx).data == last.data());
}

}  // namespace sparsegrad::test
