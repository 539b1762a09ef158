// The layer steps that the benchmarks time compute what they say: LoRA's products beside plain loops, and one weight
// under every plan and in the paper's own order.
#include <doctest/doctest.h>

#include <sparsegrad/backend/cpu.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "../../benchmarks/grid_cases.hpp"

namespace {

using namespace sparsegrad;
using Backend = backend::Cpu;
using Data = bench::LayerData<Backend>;

constexpr index_t out = 12;
constexpr index_t in = 8;
constexpr index_t tokens = 5;

bench::LayerShape small_shape() {
  return {.name = "8 -> 12", .out = out, .in = in, .tokens = tokens, .micro_batches = 2, .entries = 10};
}

// Sums of at most 12 products of numbers of size 1 to 10, in float.
void check_near(double computed, double expected) {
  CHECK(std::abs(computed - expected) <= 1e-4 + 1e-4 * std::abs(expected));
}

TEST_CASE("a LoRA step's products are those of y = x W^T + s (x A^T) B^T") {
  constexpr index_t rank = 3;
  Backend::Context ctx(1);
  Data data(ctx, small_shape());
  bench::LoraStep<Backend> step(ctx, data, rank);
  const double s = bench::LoraStep<Backend>::scale;
  for (index_t i = 0; i < 2; ++i)
    step.micro_batch(data.x(i), data.dy(i), i == 0);

  const auto w = data.first_weight();
  const auto a = step.a();
  const auto b = step.b();
  std::vector<double> da(rank * in), db(out * rank);
  for (index_t i = 0; i < 2; ++i) {
    const auto x = data.x(i);
    const auto dy = data.dy(i);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t r = 0; r < rank; ++r) {
        double xa = 0;
        double dyb = 0;
        for (index_t c = 0; c < in; ++c)
          xa += double(x(t, c)) * a(r, c);
        for (index_t o = 0; o < out; ++o)
          dyb += double(dy(t, o)) * b(o, r);
        for (index_t o = 0; o < out; ++o)
          db[static_cast<std::size_t>(o * rank + r)] += s * dy(t, o) * xa;
        for (index_t c = 0; c < in; ++c)
          da[static_cast<std::size_t>(r * in + c)] += s * dyb * x(t, c);
      }
    }
  }
  for (index_t r = 0; r < rank; ++r)
    for (index_t c = 0; c < in; ++c)
      check_near(step.da()(r, c), da[static_cast<std::size_t>(r * in + c)]);
  for (index_t o = 0; o < out; ++o)
    for (index_t r = 0; r < rank; ++r)
      check_near(step.db()(o, r), db[static_cast<std::size_t>(o * rank + r)]);

  // y and dX are those of the second micro-batch, by the whole weight W + s B A.
  for (index_t t = 0; t < tokens; ++t) {
    std::vector<double> dx(in);
    for (index_t o = 0; o < out; ++o) {
      double y = 0;
      for (index_t c = 0; c < in; ++c) {
        double whole = w(o, c);
        for (index_t r = 0; r < rank; ++r)
          whole += s * b(o, r) * a(r, c);
        y += whole * data.x(1)(t, c);
        dx[static_cast<std::size_t>(c)] += whole * data.dy(1)(t, o);
      }
      check_near(data.y()(t, o), y);
    }
    for (index_t c = 0; c < in; ++c)
      check_near(data.dx()(t, c), dx[static_cast<std::size_t>(c)]);
  }
}

TEST_CASE("every plan of a basis is a case, and the cost model chooses one of them") {
  Backend::Context ctx(1);
  const auto cases = bench::grid_cases<Backend>(ctx, small_shape(), 4);
  int plans = 0;
  int chosen = 0;
  for (const bench::GridCase& c : cases) {
    plans += c.family == "both sides full";
    chosen += c.family == "both sides full" && c.chosen;
  }
  CHECK(plans == 4);
  CHECK(chosen == 1);
  CHECK(cases.front().family == "dense, AdamW");
}

TEST_CASE("all plans and the paper's order train the same weight") {
  // 40 steps of rate 1e-5 change Y by some 1e-3, rounding by less than 2e-5.
  constexpr int steps = 40;
  Backend::Context ctx(1);
  const auto basis = TuckerBasis<float, Backend>::from_sides(bench::stored_side<Backend>(ctx, out, out, 1),
                                                             bench::stored_side<Backend>(ctx, in, in, 2));
  std::vector<std::vector<float>> results;
  const auto result = [&](auto make_step) {
    Data data(ctx, small_shape());
    auto step = make_step(data);
    for (int i = 0; i < steps; ++i)
      step();
    const auto y = data.y();
    results.emplace_back(y.data, y.data + y.size());
  };
  for (const Plan& plan : bench::plans_of(*basis, {tokens, 2}, CostModel{}))
    result([&](Data& d) { return bench::SparseStep<Backend>(ctx, d, basis, 10, plan); });
  result([&](Data& d) { return bench::InBasisStep<Backend>(ctx, d, basis); });
  REQUIRE(results.size() == 5);

  // Y of the last micro-batch by the weight that nothing trained.
  Data data(ctx, small_shape());
  Backend::gemm<float>(ctx, Op::none, Op::transpose, 1, data.x(2 * steps - 1), data.first_weight(), 0,
                       data.y());
  double moved = 0;
  for (std::size_t i = 0; i < results.front().size(); ++i) {
    moved = std::max(moved, double(std::abs(results.front()[i] - data.y().data[i])));
    for (const auto& y : results)
      CHECK(std::abs(y[i] - results.front()[i]) <= 2e-5);
  }
  CHECK(moved > 3e-4);
}

}  // namespace
