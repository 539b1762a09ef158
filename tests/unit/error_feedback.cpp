#include <sparsegrad/extras/error_feedback.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

using Feedback = ErrorFeedback<double, B>;

oracle::Matrix matrix_of(const SparseGradient<double, B>& s) {
  oracle::Matrix m(static_cast<int>(s.rows()), static_cast<int>(s.cols()));
  for (index_t e = 0; e < s.count(); ++e)
    m.data[static_cast<std::size_t>(s.dense() ? e : s.indices()[e])] = s.values()[e];
  return m;
}

}  // namespace

TEST_CASE("error feedback: P = G + E, S = top-k of P, E <- P - S, against plain loops") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  const auto feedback = std::make_shared<Feedback>();
  group.use_selector(model.ctx, 1, feedback);
  oracle::Matrix residual(8, 6);
  for (int step = 0; step < 6; ++step) {
    std::vector<oracle::Matrix> g;
    for (std::size_t i = 0; i < 3; ++i)
      g.push_back(model.add_gradient(i));
    CHECK(group.step(model.ctx, {}).kept == 15);
    const oracle::Matrix p = oracle::sum(g[1], residual);
    const oracle::Matrix s = oracle::keep_top(p, 5);
    residual = oracle::sum(p, s, -1);
    CHECK(matrix_of(group.gradient(1)).data == s.data);
    CHECK(matrix_of(group.gradient(0)).data == oracle::keep_top(g[0], 5).data);  // layer 0 selects by TopK
    CHECK(feedback->state(model.ctx).values == residual.data);
  }
  CHECK(group.memory(model.ctx).selectors == 48 * 8);

  // With everything kept nothing is left over.
  Group all(keeping(48));
  const auto none = std::make_shared<Feedback>();
  all.add(model.ctx, *model.layers[1], "up");
  all.use_selector(model.ctx, 0, none);
  model.add_gradient(1);
  all.step(model.ctx, {});
  CHECK(none->state(model.ctx).values == std::vector<double>(48, 0.0));
}

TEST_CASE("error feedback: steps that are not taken leave the residual; a new basis resets it") {
  GroupOptions options = keeping(5);
  options.non_finite = NonFinite::skip;
  Model model;
  Group group(options);
  model.add_to(group);
  const auto feedback = std::make_shared<Feedback>();
  group.use_selector(model.ctx, 0, feedback);
  model.add_gradients();
  group.step(model.ctx, {});
  const std::vector<double> before = feedback->state(model.ctx).values;
  for (const std::size_t bad : {0U, 2U}) {
    for (std::size_t i = 0; i < 3; ++i) {
      oracle::Matrix g = model.gradient(i);
      if (i == bad) g.data[7] = std::nan("");
      model.add(i, g);
    }
    CHECK(group.step(model.ctx, {}).skipped);
    CHECK(feedback->state(model.ctx).values == before);
  }
  // Selecting twice adds the residual once.
  const oracle::Matrix g = model.add_gradient(0);
  group.select(model.ctx, 0);
  group.select(model.ctx, 0);
  oracle::Matrix e(8, 6);
  e.data = before;
  CHECK(matrix_of(group.gradient(0)).data == oracle::keep_top(oracle::sum(g, e), 5).data);
  group.clear(model.ctx);

  group.collect(model.ctx, recipe_of(SideRecipe::random(4), SideRecipe::identity()));
  group.refresh(model.ctx);
  CHECK(feedback->state(model.ctx).values == std::vector<double>(24, 0.0));
  model.add_gradient(0);
  const MatrixView<const double> core = group.finish(model.ctx, 0);
  oracle::Matrix projected(4, 6);
  projected.data.assign(core.data, core.data + 24);
  group.step(model.ctx, {});
  CHECK(matrix_of(group.gradient(0)).data == oracle::keep_top(projected, 5).data);

  group.use_selector(model.ctx, 0, nullptr);  // TopK again
  model.add_gradients();
  group.step(model.ctx, {});
  CHECK(group.memory(model.ctx).selectors == 0);
}

TEST_CASE("error feedback: clipping looks at the gradient alone") {
  Model model;
  Group group(keeping(5));
  group.add(model.ctx, *model.layers[0], "up");
  group.use_selector(model.ctx, 0, std::make_shared<Feedback>());
  for (int step = 0; step < 2; ++step) {
    const oracle::Matrix g = model.add_gradient(0);
    double squares = 0;
    for (const double x : g.data)
      squares += x * x;
    CHECK(group.squared_norm(model.ctx) == doctest::Approx(squares));
    group.step(model.ctx, {});
  }
}

TEST_CASE("error feedback: what is refused") {
  Model model;
  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  Group sharing(options);
  sharing.add(model.ctx, *model.layers[0], "up");
  CHECK(contains(message_of([&] { sharing.use_selector(model.ctx, 0, std::make_shared<Feedback>()); }),
                 "share_gradient_memory"));
  Model other;
  Group group(keeping(5));
  other.add_to(group);
  const auto feedback = std::make_shared<Feedback>();
  group.use_selector(other.ctx, 0, feedback);
  CHECK(contains(message_of([&] { group.use_selector(other.ctx, 1, feedback); }), "layer 0"));
  SparseGradient<double, B> s(other.ctx, 2, 2, 1);
  std::vector<double> core(4, 1.0);
  CHECK(message_of([&] { (*feedback)(other.ctx, MatrixView<double>(core.data(), 2, 2), s); }) ==
        "core is 2x2, expected 8x6 (rows x cols of the residual)");
  const SelectorState<double> saved{{}, core};
  CHECK(message_of([&] { feedback->check_state(2, 2, saved); }) == "nothing was thrown");
  CHECK(message_of([&] { feedback->check_state(3, 2, saved); }) ==
        "the saved residual has 4 numbers, expected 6");
  CHECK(message_of([&] { feedback->restore(other.ctx, saved); }) ==
        "the saved residual has 4 numbers, expected 48");
  const SelectorState<double> infinite{{}, {1, 2, std::numeric_limits<double>::infinity(), 4}};
  CHECK(message_of([&] { feedback->check_state(2, 2, infinite); }) ==
        "the saved residual holds NaN or Inf at entry 2");
  const SelectorState<double> placed{{1}, core};
  CHECK_THROWS_AS(feedback->check_state(2, 2, placed), ValueError);
}
