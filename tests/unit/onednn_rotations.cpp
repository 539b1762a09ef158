// Rotations in terms of bfloat16, against products in double: errors, exact numbers, determinism, and what takes their
// place on backends without products of bfloat16.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/cpu_onednn.hpp>
#include <sparsegrad/backend/fastest_of.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include "support/stacks.hpp"

namespace sparsegrad {
namespace {

using B = backend::CpuOneDnn;
using Precision = RotationPrecision;
using test::Matrix;

constexpr std::array all_precisions{Precision::full, Precision::bf16x1, Precision::bf16x2, Precision::bf16x3};

/// What a product of two numbers may be off by, relatively: their dropped rests, and the products of two terms that
/// are left out.
double dropped(Precision precision) {
  switch (precision) {
    case Precision::full:
      return 0;
    case Precision::bf16x1:
      return 2.02 * 0x1p-9;
    case Precision::bf16x2:
      return 3.02 * 0x1p-18;
    case Precision::bf16x3:
      return 4.04 * 0x1p-27;
  }
  return 0;
}
/// And a sum of products by rounding in float: at most this part of the sum of their magnitudes.
double rounding(Precision precision, index_t depth) {
  return static_cast<double>(depth * std::max(1, bfloat16_products(precision)) + 2) * 0x1p-24;
}

template <class A>
Matrix<double> magnitudes(const A& a) {
  Matrix<double> m = test::wide(a);
  for (double& x : m.data)
    x = std::abs(x);
  return m;
}

/// The largest of |found - exact| / magnitude.
template <class A>
double error(const A& found, const Matrix<double>& exact, const Matrix<double>& magnitude) {
  double worst = 0;
  for (std::size_t e = 0; e < exact.data.size(); ++e)
    worst = std::max(
        worst, std::abs(static_cast<double>(found.data[e]) - exact.data[e]) / (magnitude.data[e] + 1e-300));
  return worst;
}

TEST_CASE("rotations: products are as exact as their number of terms") {
  constexpr index_t m = 83;
  constexpr index_t k = 211;
  constexpr index_t n = 97;
  for (const int threads : {1, 3}) {
    B::Context ctx(threads);
    for (const auto& [op_a, op_b] :
         {std::pair(Op::none, Op::none), std::pair(Op::none, Op::transpose),
          std::pair(Op::transpose, Op::none), std::pair(Op::transpose, Op::transpose)}) {
      const bool ta = op_a == Op::transpose;
      const bool tb = op_b == Op::transpose;
      const auto a = test::random_matrix<float>(ta ? k : m, ta ? m : k, 1);
      const auto b = test::random_matrix<float>(tb ? n : k, tb ? k : n, 2);
      const auto before = test::random_matrix<float>(m, n, 3);
      for (const float beta : {0.0F, 1.0F}) {
        Matrix<double> exact = test::product(a, b, ta, tb);
        Matrix<double> magnitude = test::product(magnitudes(a), magnitudes(b), ta, tb);
        for (std::size_t e = 0; e < exact.data.size(); ++e) {
          exact.data[e] += static_cast<double>(beta * before.data[e]);
          magnitude.data[e] += std::abs(static_cast<double>(beta * before.data[e]));
        }
        std::array<double, 4> errors{};
        for (const Precision precision : all_precisions) {
          CAPTURE(to_string(precision));
          Matrix<float> c = before;
          if (beta == 0.0F) std::fill(c.data.begin(), c.data.end(), NAN);
          detail::rotation_gemm<float, B>(ctx, precision, op_a, op_b, a.view(), b.view(), beta, c.view());
          double& found = errors.at(static_cast<std::size_t>(precision));
          found = error(c, exact, magnitude);
          CHECK(found <= dropped(precision) + rounding(precision, k));
        }
        // Each is what it says, and no better one in its place.
        CHECK(errors[1] > 20 * errors[2]);
        CHECK(errors[2] > 1.5 * errors[3]);
        CHECK(errors[3] < 4 * errors[0] + 0x1p-24);
      }
    }
  }
}

/// Whole numbers, of at most `bits` bits.
Matrix<float> whole(index_t rows, index_t cols, int bits, std::uint64_t seed) {
  Matrix<float> a(rows, cols);
  for (std::size_t e = 0; e < a.data.size(); ++e) {
    const auto number = static_cast<std::int64_t>(detail::random_bits(seed, e) >> (64 - bits));
    a.data[e] = static_cast<float>(e % 2 == 0 ? number : -number);
  }
  return a;
}

TEST_CASE("rotations: numbers of 8, 16 and 24 bits are exact in 1, 2 and 3 terms") {
  B::Context ctx(2);
  // One operand of single bits, so that no product of two terms that is left out has a part in it.
  const auto signs = whole(40, 64, 1, 4);
  for (const auto& [precision, bits] : {std::pair(Precision::bf16x1, 8), std::pair(Precision::bf16x2, 16),
                                        std::pair(Precision::bf16x3, 18)}) {
    const int significant = bits;
    CAPTURE(significant);
    const auto a = whole(50, 64, bits, 5);  // sums of 64 stay below 2^24
    const Matrix<double> exact = test::product(a, signs, false, true);
    Matrix<float> c(50, 40);
    detail::rotation_gemm<float, B>(ctx, precision, Op::none, Op::transpose, a.view(), signs.view(), 0.0F,
                                    c.view());
    CHECK(test::max_difference(c, exact) == 0);
    detail::rotation_gemm<float, B>(ctx, precision, Op::none, Op::transpose, signs.view(), a.view(), 0.0F,
                                    Matrix<float>(40, 50).view());
  }
  // Both of 8 bits: exact in one term.
  const auto a = whole(50, 64, 8, 6);
  const auto b = whole(64, 40, 8, 7);
  Matrix<float> c(50, 40);
  detail::rotation_gemm<float, B>(ctx, Precision::bf16x1, Op::none, Op::none, a.view(), b.view(), 0.0F,
                                  c.view());
  CHECK(test::max_difference(c, test::product(a, b)) == 0);
  // The terms are the number: 24 bits are three times 8.
  const auto x = test::random_matrix<float>(7, 301, 8);
  auto frame = ctx.frame();
  const detail::SplitMatrix terms = detail::split<B>(ctx, frame, x.view(), 3);
  bool equal = true;
  for (index_t i = 0; i < x.rows; ++i)
    for (index_t j = 0; j < x.cols; ++j)
      equal = equal && static_cast<double>(terms.term[0](i, j)) + static_cast<double>(terms.term[1](i, j)) +
                               static_cast<double>(terms.term[2](i, j)) ==
                           static_cast<double>(x(i, j));
  CHECK(equal);
}

/// A side of that rank; 0: the identity.
BasisSide<float, B> side(B::Context& ctx, index_t extent, index_t rank, std::uint64_t seed) {
  return rank == 0 ? BasisSide<float, B>::identity(extent)
                   : BasisSide<float, B>::random(ctx, extent, rank, seed);
}
/// U [n, r] of it.
Matrix<double> columns(B::Context& ctx, const BasisSide<float, B>& side) {
  Matrix<double> u(side.extent(), side.rank());
  const std::vector<float> rows = side.host_factor(ctx);
  for (index_t i = 0; i < u.rows; ++i)
    for (index_t j = 0; j < u.cols; ++j)
      u(i, j) = rows.empty() ? (i == j ? 1 : 0)
                             : static_cast<double>(rows[static_cast<std::size_t>(j * u.rows + i)]);
  return u;
}

double frobenius(const Matrix<double>& a) {
  return std::sqrt(test::energy_of(a));
}
template <class A>
double distance(const A& found, const Matrix<double>& exact) {
  double sum = 0;
  for (std::size_t e = 0; e < exact.data.size(); ++e) {
    const double d = static_cast<double>(found.data[e]) - exact.data[e];
    sum += d * d;
  }
  return std::sqrt(sum);
}

TEST_CASE("rotations: core and weight update of a layer, both layouts, against double") {
  constexpr index_t out = 96;
  constexpr index_t in = 72;
  constexpr index_t tokens = 40;
  for (const auto& [r, c] : {std::pair<index_t, index_t>(96, 72), {24, 16}, {0, 16}, {24, 0}}) {
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      for (const Precision precision : all_precisions) {
        CAPTURE(to_string(precision));
        const index_t rank = r;
        CAPTURE(rank);
        B::Context ctx(2);
        const auto basis = TuckerBasis<float, B>::from_sides(side(ctx, out, r, 1), side(ctx, in, c, 2));
        const auto v = columns(ctx, basis->out());
        const auto u = columns(ctx, basis->in());
        const bool out_in = layout == WeightLayout::out_in;
        Matrix<float> master = test::random_matrix<float>(out_in ? out : in, out_in ? in : out, 3);
        Matrix<sparsegrad::bfloat16> weight(master.rows, master.cols, sparsegrad::bfloat16(0.0F));
        const Matrix<float> before = master;
        SparseGradLinear<sparsegrad::bfloat16, B> layer(
            ctx, weight.view(), master.view(), nullptr,
            {.layout = layout, .plan = Plan{}, .rotations = precision});
        CHECK(layer.rotations() == available_rotations<float, B>(ctx, precision));
        layer.set_basis(ctx, basis);
        // A gradient given by the engine, added as it is and read where it stands, and one of tokens.
        const auto dw = test::random_matrix<float>(out, in, 4);
        layer.add_gradient(ctx, dw.view());
        const Matrix<double> exact = test::product(v, test::product(dw, u), true);
        const double bound = (2 * dropped(precision) + 1e-5) * frobenius(test::wide(dw));
        CHECK(distance(test::copied(layer.core(ctx)), exact) <= bound);
        GivenGradient<float, B> given(ctx, out, in, {}, precision);
        given.set_basis(ctx, basis);
        Matrix<float> stored(master.rows, master.cols);
        for (index_t i = 0; i < out; ++i)
          for (index_t j = 0; j < in; ++j)
            (out_in ? stored(i, j) : stored(j, i)) = dw(i, j);
        given.set({stored.view(), layout});
        CHECK(distance(test::copied(given.core(ctx)), exact) <= bound);
        layer.clear();
        Matrix<sparsegrad::bfloat16> x(tokens, in);
        Matrix<sparsegrad::bfloat16> dy(tokens, out);
        for (std::size_t e = 0; e < x.data.size(); ++e)
          x.data[e] = sparsegrad::bfloat16(static_cast<float>(detail::random_normal(5, e)));
        for (std::size_t e = 0; e < dy.data.size(); ++e)
          dy.data[e] = sparsegrad::bfloat16(static_cast<float>(detail::random_normal(6, e)));
        layer.gradient().add_tokens(ctx, dy.view(), layer.gradient().save(ctx, x.view()));
        const Matrix<double> gradient = test::product(dy, x, true);
        CHECK(distance(test::copied(layer.core(ctx)), test::product(v, test::product(gradient, u), true)) <=
              (2 * dropped(precision) + 1e-5) * frobenius(gradient));
        layer.clear();
        // An update of few entries, which take the sparse way, and of all.
        for (const index_t count : {basis->rows() * basis->cols() / 50 + 1, basis->rows() * basis->cols()}) {
          std::vector<stored_index_t> index;
          std::vector<float> value;
          Matrix<double> d(basis->rows(), basis->cols());
          for (index_t e = 0; e < count; ++e) {
            index.push_back(static_cast<stored_index_t>(e * (d.rows * d.cols / count)));
            value.push_back(static_cast<float>(detail::random_normal(7, static_cast<std::uint64_t>(e))));
            d.data[static_cast<std::size_t>(index.back())] = static_cast<double>(value.back());
          }
          SparseGradient<float, B> update(ctx, d.rows, d.cols, count);
          update.assign(ctx, index, value);
          std::copy(before.data.begin(), before.data.end(), master.data.begin());
          layer.apply(ctx, update);
          const Matrix<double> change = test::product(v, test::product(d, u, false, true));
          Matrix<double> expected = test::wide(before);
          for (index_t i = 0; i < out; ++i)
            for (index_t j = 0; j < in; ++j)
              (out_in ? expected(i, j) : expected(j, i)) += change(i, j);
          CHECK(distance(master, expected) <=
                2 * dropped(precision) * frobenius(change) + 1e-6 * frobenius(expected));
        }
      }
    }
  }
}

/// Core and weight after a step of a group of two layers, as they were for that number of threads.
std::vector<float> step_of(int threads, Precision precision) {
  B::Context ctx(threads, true);
  constexpr index_t out = 330;
  constexpr index_t in = 290;
  Matrix<float> master = test::random_matrix<float>(out, in, 1);
  SparseGradGroup<float, B> group({.density = 0.05});
  const index_t w = group.add_weight(ctx, master.view(), "w", {.rotations = precision});
  group.source(w).set_basis(ctx,
                            TuckerBasis<float, B>::from_sides(side(ctx, out, out, 1), side(ctx, in, in, 2)));
  const auto dw = test::random_matrix<float>(out, in, 2);
  for (int i = 0; i < 2; ++i) {
    group.set_gradient(w, {dw.view()});
    group.step(ctx, {.learning_rate = 1e-2});
  }
  return master.data;
}

TEST_CASE("rotations: the same bits on any number of threads under determinism") {
  std::vector<std::vector<float>> weights;
  for (const Precision precision : all_precisions) {
    weights.push_back(step_of(1, precision));
    CHECK(step_of(1, precision) == weights.back());
    CHECK(step_of(3, precision) == weights.back());
  }
  const B::Context ctx(1);
  CHECK((weights[1] != weights[0]) == ctx.multiplies<sparsegrad::bfloat16>());  // the option reaches the step
  CHECK((weights[2] != weights[1]) == ctx.multiplies<sparsegrad::bfloat16>());
}

TEST_CASE("rotations: float where bfloat16 is not multiplied") {
  const auto of = [](auto backend, auto number, auto&... arguments) {
    using Other = decltype(backend);
    using T = decltype(number);
    typename Other::Context ctx(arguments...);
    std::array<Precision, 3> found{available_rotations<compute_t<T>, Other>(ctx, Precision::bf16x2),
                                   default_rotations<T, Other>(ctx), Precision::full};
    return found;
  };
  constexpr std::array full{Precision::full, Precision::full, Precision::full};
  CHECK(of(backend::Cpu(), sparsegrad::bfloat16()) == full);
  CHECK(of(backend::CpuBlas(), sparsegrad::bfloat16()) == full);
  CHECK(of(B(), double()) == full);
  const B::Context ctx(1);
  const bool native = ctx.multiplies<sparsegrad::bfloat16>();
  CHECK(default_rotations<sparsegrad::bfloat16, B>(ctx) == (native ? Precision::bf16x1 : Precision::full));
  CHECK(default_rotations<float16, B>(ctx) == Precision::full);
  CHECK(default_rotations<float, B>(ctx) == Precision::full);
  CHECK(available_rotations<float, B>(ctx, Precision::bf16x3) ==
        (native ? Precision::bf16x3 : Precision::full));

  // The choice of products decides, not what the base of the context could do.
  using Fastest = backend::FastestOf<B, backend::CpuBlas>;
  const Fastest::Context by_onednn(1, false, {"cpu_blas", "cpu_blas", "cpu_onednn"});
  const Fastest::Context by_blas(1, false, {"cpu_onednn", "cpu_onednn", "cpu_blas"});
  CHECK(by_onednn.multiplies<sparsegrad::bfloat16>() == native);
  CHECK(by_onednn.product_speedup<sparsegrad::bfloat16>() == ctx.product_speedup<sparsegrad::bfloat16>());
  CHECK(!by_blas.multiplies<sparsegrad::bfloat16>());
  CHECK(by_blas.product_speedup<sparsegrad::bfloat16>() == 1);
  CHECK(default_rotations<sparsegrad::bfloat16, Fastest>(by_onednn) ==
        default_rotations<sparsegrad::bfloat16, B>(ctx));
  CHECK(default_rotations<sparsegrad::bfloat16, Fastest>(by_blas) == Precision::full);
}

/// A machine whose products of 16 bits have that many times the rate of float's.
template <int Times>
struct Machine : B {
  struct Context : B::Context {
    using B::Context::Context;
    template <class S>
    bool multiplies() const {
      return Times > 1;
    }
    template <class T>
    double product_speedup() const {
      return is_low_precision<T> ? Times : 1;
    }
  };
};

TEST_CASE("cost model: a layer's default follows what it stores and what the machine multiplies") {
  const auto model = []<int Times, class T>(std::integral_constant<int, Times>, T, Precision rotations) {
    const typename Machine<Times>::Context ctx(1);
    const CostModel m = default_cost_model<T, Machine<Times>>(ctx, rotations);
    return std::tuple(m.transform_entry, m.sparse_entry, m.rotation_product);
  };
  const CostModel of_float;
  const auto times = [&](double s, double rotation) {
    return std::tuple(s * of_float.transform_entry, s * of_float.sparse_entry, rotation);
  };
  constexpr std::integral_constant<int, 1> plain;
  constexpr std::integral_constant<int, 2> avx512;
  constexpr std::integral_constant<int, 8> amx;
  CHECK(model(plain, float(), Precision::full) == times(1, 1));
  CHECK(model(plain, sparsegrad::bfloat16(), Precision::full) == times(1, 1));
  CHECK(model(amx, float(), Precision::full) == times(1, 1));
  CHECK(model(amx, float(), Precision::bf16x1) == times(1, 0.125));
  CHECK(model(avx512, sparsegrad::bfloat16(), Precision::bf16x1) == times(2, 1));
  CHECK(model(avx512, sparsegrad::bfloat16(), Precision::bf16x2) == times(2, 3));
  CHECK(model(amx, sparsegrad::bfloat16(), Precision::full) == times(8, 8));
  CHECK(model(amx, sparsegrad::bfloat16(), Precision::bf16x3) == times(8, 6));

  // A layer takes it, and leaves one that it is given as it is.
  using M = Machine<8>;
  M::Context ctx(1);
  Matrix<float> master(6, 4);
  Matrix<sparsegrad::bfloat16> w(6, 4);
  const SparseGradLinear<sparsegrad::bfloat16, M> by_default(ctx, w.view(), master.view(), nullptr);
  CHECK(by_default.rotations() == Precision::bf16x1);
  CHECK(by_default.cost_model().sparse_entry == 8 * of_float.sparse_entry);
  const SparseGradLinear<sparsegrad::bfloat16, M> given(ctx, w.view(), master.view(), nullptr,
                                                        {.cost_model = CostModel{.sparse_entry = 3}});
  CHECK(given.cost_model().sparse_entry == 3);
  CHECK(given.cost_model().rotation_product == 1);

  // Float rotations on a machine that multiplies tokens eight times as fast: rather project the tokens.
  const SideShape out{SideKind::identity, 3072, 3072};
  const SideShape in{SideKind::factor, 768, 768};
  CHECK(choose_plan(out, in, {4096, 1}).in == SideOrder::multiply_first);
  CHECK(choose_plan(out, in, {4096, 1}, CostModel{.rotation_product = 8}).in == SideOrder::project_first);
}

}  // namespace
}  // namespace sparsegrad
