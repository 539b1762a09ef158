// A group that trains an engine's own weights from the gradients that the engine makes: add_weight, set_gradient,
// warmup_steps.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/io/group_file.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;
using oracle::Matrix;

namespace {

/// The three weights of a Model as an engine has them, [out, in] or [in, out], with one gradient array each.
struct Engine {
  explicit Engine(Group& g, WeightLayout weight_layout = WeightLayout::out_in, bool gradient_stands = false,
                  std::uint64_t seed = 1)
      : group(g), layout(weight_layout), stands(gradient_stands) {
    Model model({}, seed);
    random = model.random;
    for (std::size_t i = 0; i < 3; ++i) {
      Matrix w(static_cast<int>(model.layers[i]->out_extent()),
               static_cast<int>(model.layers[i]->in_extent()));
      w.data = model.weights[i];
      weights.push_back(layout == WeightLayout::out_in ? w : oracle::transposed(w));
      gradients.emplace_back(weights[i].rows, weights[i].cols);
    }
    for (std::size_t i = 0; i < 3; ++i) {
      WeightOptions<double> options;
      options.layout = layout;
      if (stands) options.gradient = view(gradients[i]);
      CHECK(group.add_weight(ctx,
                             MatrixView<double>(weights[i].data.data(), weights[i].rows, weights[i].cols),
                             i == 2 ? "down" : "up", options) == static_cast<index_t>(i));
    }
  }
  static MatrixView<const double> view(const Matrix& m) { return {m.data.data(), m.rows, m.cols}; }
  /// Draws dW [out, in] as Model::gradient does.
  Matrix gradient(std::size_t i) { return i == 2 ? random.matrix(6, 8) : random.matrix(8, 6); }
  void give(std::size_t i, const Matrix& dw) {
    gradients[i] = layout == WeightLayout::out_in ? dw : oracle::transposed(dw);
    if (!stands) group.set_gradient(static_cast<index_t>(i), view(gradients[i]));
  }
  void give_all() {
    for (std::size_t i = 0; i < 3; ++i)
      give(i, gradient(i));
  }
  /// As [out, in].
  Weights result() const {
    Weights all;
    for (const Matrix& w : weights)
      all.push_back(layout == WeightLayout::out_in ? w.data : oracle::transposed(w).data);
    return all;
  }

  Group& group;
  WeightLayout layout;
  bool stands;
  B::Context ctx;
  oracle::Random random{1};
  std::vector<Matrix> weights, gradients;
};

GroupOptions warming(index_t steps, const BasisRecipe& recipe, index_t entries = 7) {
  GroupOptions options = keeping(entries);
  options.warmup_steps = steps;
  options.recipe = recipe;
  return options;
}

double difference(const Weights& a, const Weights& b) {
  double worst = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t e = 0; e < a[i].size(); ++e)
      worst = std::max(worst, std::abs(a[i][e] - b[i][e]));
  return worst;
}

std::vector<BasisRecipe> recipes() {
  return {recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd()),
          recipe_of(SideRecipe::hosvd(4), SideRecipe::identity()),
          recipe_of(SideRecipe::identity(), SideRecipe::hosvd(3), BasisScope::layer),
          recipe_of(SideRecipe::hosvd(5), SideRecipe::hadamard())};
}

}  // namespace

TEST_CASE("engine: weights and gradients of its own train as layers do") {
  for (const BasisRecipe& recipe : recipes()) {
    for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
      for (const bool stands : {false, true}) {
        CAPTURE(static_cast<int>(layout));
        CAPTURE(stands);
        Model model;
        Group layers(keeping(7));
        model.add_to(layers);
        Group group(warming(3, recipe));
        Engine engine(group, layout, stands);
        const Weights before = engine.result();
        CHECK(before == model.weights);

        layers.collect(model.ctx, recipe);
        CHECK(group.warming_up());
        CHECK_FALSE(group.collecting());
        for (int step = 0; step < 3; ++step) {
          model.add_gradients();
          layers.end_collecting_step(model.ctx);
          engine.give_all();
          const GroupReport report = group.step(engine.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
          CHECK(report.warming_up);
          CHECK(report.kept == 0);
          CHECK(report.without_gradient == 0);
          CHECK_FALSE(report.skipped);
          CHECK(group.collecting() == (step < 2));
          CHECK(group.warming_up() == (step < 2));
          CHECK(engine.result() == before);
        }
        layers.refresh(model.ctx);
        CHECK((group.basis(0) == group.basis(1)) == (recipe.scope == BasisScope::kind));
        CHECK(group.basis(0) != group.basis(2));
        CHECK(group.basis(0)->report().gradients == (recipe.scope == BasisScope::kind ? 6 : 3));
        CHECK(group.basis(0)->rows() == layers.basis(0)->rows());
        for (int step = 0; step < 5; ++step) {
          model.add_gradients();
          const GroupReport expected = layers.step(model.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
          engine.give_all();
          const GroupReport report = group.step(engine.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
          CHECK_FALSE(report.warming_up);
          CHECK(report.kept == expected.kept);
          CHECK(report.kept == 21);
          // Products may be taken in another order.
          CHECK(difference(engine.result(), model.weights) < 1e-12);
        }
        CHECK(difference(engine.result(), before) > 0.01);
      }
    }
  }
}

TEST_CASE("engine: without a basis a step is that of layers, bit by bit") {
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    Model model;
    Group layers(keeping(7));
    model.add_to(layers);
    Group group(keeping(7));
    Engine engine(group, layout);
    CHECK_FALSE(group.warming_up());
    for (int step = 0; step < 4; ++step) {
      model.add_gradients();
      engine.give_all();
      const double squares = group.squared_norm(engine.ctx);
      CHECK(squares == doctest::Approx(layers.squared_norm(model.ctx)));
      double expected = 0;
      for (const Matrix& g : engine.gradients)
        for (const double x : g.data)
          expected += x * x;
      CHECK(squares == doctest::Approx(expected));
      const GroupStep options{.learning_rate = 0.05, .weight_decay = 0.1, .grad_scale = 0.5};
      CHECK(layers.step(model.ctx, options).kept == group.step(engine.ctx, options).kept);
      CHECK(engine.result() == model.weights);
    }
    // Nothing of the gradients is held: they stand where the engine has them.
    if (layout == WeightLayout::out_in) CHECK(group.memory(engine.ctx).gradients == 0);
    CHECK(layers.memory(model.ctx).gradients == 3 * 48 * 8);
  }
}

TEST_CASE("engine: a weight and layers side by side; a gradient of another layout; one that was not given") {
  Model model;
  Model alone;
  Group group(keeping(7));
  Group usual(keeping(7));
  alone.add_to(usual);
  group.add(model.ctx, *model.layers[0], "up");
  group.add_weight(model.ctx, MatrixView<double>(model.weights[1].data(), 8, 6), "up");
  group.add(model.ctx, *model.layers[2], "down");
  for (int step = 0; step < 3; ++step) {
    alone.add_gradients();
    model.add_gradient(0);
    const Matrix turned = oracle::transposed(model.gradient(1));
    group.set_gradient(1, MatrixView<const double>(turned.data.data(), 6, 8), WeightLayout::in_out);
    model.add_gradient(2);
    group.step(model.ctx, {.learning_rate = 0.05});
    usual.step(alone.ctx, {.learning_rate = 0.05});
    CHECK(model.weights == alone.weights);
  }
  // No gradient was given for this step: the weight is left out of it.
  const Weights before = model.weights;
  model.add_gradient(0);
  const GroupReport report = group.step(model.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
  CHECK(report.without_gradient == 2);
  CHECK(report.kept == 7);
  CHECK(model.weights[0] != before[0]);
  CHECK(model.weights[1] == before[1]);
  CHECK(group.optimizer(1).steps() == 3);
}

TEST_CASE("engine: a warm-up for recipes that need no gradients is one step") {
  Group group(warming(5, recipe_of(SideRecipe::random(4), SideRecipe::hadamard())));
  Engine engine(group);
  const Weights before = engine.result();
  engine.give_all();
  CHECK(group.step(engine.ctx, {}).warming_up);
  CHECK_FALSE(group.warming_up());
  CHECK(group.basis(0)->rows() == 4);
  CHECK(engine.result() == before);
  engine.give_all();
  CHECK(group.step(engine.ctx, {}).kept == 21);
  CHECK(engine.result() != before);
}

TEST_CASE("engine: layers warm up as well, whatever is asked for before the step") {
  const BasisRecipe recipe = recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd());
  Model apart;
  Group usual(keeping(7));
  apart.add_to(usual);
  usual.collect(apart.ctx, recipe);
  for (int step = 0; step < 2; ++step) {
    apart.add_gradients();
    usual.end_collecting_step(apart.ctx);
  }
  usual.refresh(apart.ctx);
  apart.add_gradients();
  usual.step(apart.ctx, {});
  for (const std::string call : {"none", "squared_norm", "finish", "select", "shared"}) {
    CAPTURE(call);
    GroupOptions options = warming(2, recipe);
    options.share_gradient_memory = call == "shared";
    Model model;
    Group group(options);
    model.add_to(group);
    CHECK(model.layers[0]->gradient().forms_weight_gradient());
    const Weights before = model.weights;
    for (int step = 0; step < 3; ++step) {
      double squares = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        const Matrix g = model.add_gradient(i);
        for (const double x : g.data)
          squares += x * x;
        const auto n = static_cast<index_t>(i);
        if (call == "finish") CHECK(group.finish(model.ctx, n).size() == 48);
        if (call == "select") CHECK(group.select(model.ctx, n).kept == 7);
        if (call == "shared" && step < 2) group.end_collecting_step(model.ctx, n);
        if (call == "shared" && step == 2) group.select(model.ctx, n);
      }
      if (call == "squared_norm") CHECK(group.squared_norm(model.ctx) == doctest::Approx(squares));
      const GroupReport report = group.step(model.ctx, {});
      CHECK(report.warming_up == (step < 2));
      CHECK(report.without_gradient == 0);
      if (step < 2) CHECK(model.weights == before);
    }
    CHECK(group.basis(0)->report().gradients == 4);
    CHECK(group.basis(2)->report().gradients == 2);
    CHECK(group.basis(0)->report().out.spectrum == usual.basis(0)->report().out.spectrum);
    CHECK_FALSE(model.layers[0]->gradient().forms_weight_gradient());
    CHECK(model.weights == apart.weights);
  }
}

TEST_CASE("engine: a group that is restored in its warm-up goes on bit by bit") {
  const GroupOptions options = warming(3, recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd()));
  for (const int begun : {0, 1, 3}) {  // steps of the second group before it is restored
    CAPTURE(begun);
    Group first_group(options);
    Group second_group(options);
    Engine first(first_group);
    Engine second(second_group, WeightLayout::out_in, false, 5);
    CHECK_THROWS_AS((void)first_group.state(first.ctx), StateError);
    for (int step = 0; step < 5; ++step) {
      first.give_all();
      first_group.step(first.ctx, {});
    }
    for (int step = 0; step < begun; ++step) {
      second.give_all();
      CHECK(second_group.step(second.ctx, {}).warming_up);
    }
    io::SafetensorsWriter writer;
    io::put(first.ctx, writer, "g.", first_group);
    const io::SafetensorsFile file(io::FileBytes::from(writer.bytes()), "f");
    second.give_all();
    CHECK_THROWS_AS(io::get(second.ctx, file, "g.", second_group), StateError);
    CHECK(second_group.warming_up() == (begun < 3));
    second_group.clear(second.ctx);
    io::get(second.ctx, file, "g.", second_group);
    CHECK_FALSE(second_group.warming_up());
    CHECK_FALSE(second_group.collecting());
    CHECK(second_group.memory(second.ctx).collection == 0);
    for (std::size_t i = 0; i < 3; ++i)
      second.weights[i].data = first.weights[i].data;
    second.random = first.random;
    CHECK(second_group.basis(0) == second_group.basis(1));
    for (int step = 0; step < 3; ++step) {
      first.give_all();
      second.give_all();
      CHECK(first_group.step(first.ctx, {}).kept == 21);
      CHECK(second_group.step(second.ctx, {}).kept == 21);
      CHECK(first.result() == second.result());
    }
  }
}

TEST_CASE("engine: one buffer for the gradients of two weights is refused, unless each is taken before") {
  B::Context ctx;
  for (const index_t warmup : {0, 1, 3}) {
    CAPTURE(warmup);
    GroupOptions options = keeping(7);
    options.warmup_steps = warmup;
    options.recipe = recipe_of(SideRecipe::hosvd(), SideRecipe::identity());
    Group group(options);
    std::vector<double> w(48, 1.0), v(48, 1.0), buffer(48, 0.5), other(48, 0.25);
    const MatrixView<const double> dw(buffer.data(), 8, 6);
    group.add_weight(ctx, MatrixView<double>(w.data(), 8, 6), "up");
    group.add_weight(ctx, MatrixView<double>(v.data(), 8, 6), "up");
    group.set_gradient(0, dw);
    group.set_gradient(1, dw);
    CHECK(message_of([&] { group.step(ctx, {.learning_rate = 0.1}); }) ==
          "weight 1 ('up'): its dW lies where that of weight 0 ('up') does, expected memory of its own until "
          "the step, which reads it");
    CHECK(w == std::vector<double>(48, 1.0));
    group.set_gradient(1, MatrixView<const double>(other.data(), 8, 6));
    CHECK(group.step(ctx, {.learning_rate = 0.1}).without_gradient == 0);
    for (const index_t i : {0, 1}) {  // one after the other
      group.set_gradient(i, dw);
      if (group.warming_up()) {
        group.end_collecting_step(ctx, i);
      } else {
        group.select(ctx, i);
      }
    }
    CHECK(group.step(ctx, {.learning_rate = 0.1}).kept == (group.warming_up() ? 0 : 14));
  }
}

TEST_CASE("engine: what is refused") {
  Model model;
  Group group(keeping(7));
  group.add(model.ctx, *model.layers[0], "up");
  std::vector<double> w(48), g(48);
  const MatrixView<const double> dw(g.data(), 8, 6);
  CHECK(
      message_of([&] { group.set_gradient(0, dw); }) ==
      "set_gradient: layer 0 ('up') makes its own gradient (add); only a weight of add_weight is given one");
  CHECK(message_of([&] { group.set_gradient(1, dw); }) ==
        "index is 1, expected 0 <= index < 1, the weights of the group");
  CHECK(message_of([&] { group.add_weight(model.ctx, MatrixView<double>(), "up"); }) ==
        "weight is 0x0, expected positive extents");
  CHECK(message_of([&] {
          WeightOptions<double> options;
          options.gradient = MatrixView<const double>(g.data(), 6, 8);
          group.add_weight(model.ctx, MatrixView<double>(w.data(), 8, 6), "up", options);
        }) == "dW is 6x8, expected 8x6 (out x in)");
  CHECK(group.size() == 1);
  CHECK(group.add_weight(model.ctx, MatrixView<double>(w.data(), 8, 6), "up") == 1);
  CHECK(message_of([&] { group.set_gradient(1, MatrixView<const double>(g.data(), 6, 8)); }) ==
        "weight 1 ('up'): dW is 6x8, expected 8x6 (out x in)");
  CHECK(message_of([&] { group.set_gradient(1, dw, WeightLayout::in_out); }) ==
        "weight 1 ('up'): dW is 8x6, expected 6x8 (in x out)");
  const std::vector<bfloat16> halves(48);
  CHECK(contains(message_of([&] { group.set_gradient(1, MatrixView<const bfloat16>(halves.data(), 8, 6)); }),
                 "16 bits goes with float sums"));
  group.set_gradient(1, dw);
  group.finish(model.ctx, 1);
  CHECK(message_of([&] { group.set_gradient(1, dw); }) ==
        "weight 1 ('up'): set_gradient: the core of this step is finished; call step or clear first");
  group.clear(model.ctx);
  CHECK(group.step(model.ctx, {}).without_gradient == 2);
  CHECK(message_of([] {
          GroupOptions options;
          options.warmup_steps = -1;
          Group(std::move(options));
        }) == "warmup_steps is -1, expected >= 0");
}

TEST_CASE("engine: no weight joins while the warm-up collects") {
  Group group(warming(2, recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd())));
  Engine engine(group);
  Model late;
  engine.give_all();
  group.step(engine.ctx, {});
  CHECK(message_of([&] {
          group.add_weight(engine.ctx, MatrixView<double>(late.weights[0].data(), 8, 6), "up");
        }) == "add_weight: gradients are being collected; call refresh or stop_collecting first");
  CHECK_THROWS_AS(group.add(engine.ctx, *late.layers[0], "up"), StateError);
  CHECK_FALSE(late.layers[0]->gradient().forms_weight_gradient());
  CHECK(group.size() == 3);
  engine.give_all();
  group.step(engine.ctx, {});
  CHECK(group.add_weight(engine.ctx, MatrixView<double>(late.weights[0].data(), 8, 6), "up") == 3);

  // A warm-up that ends early: without a basis.
  Group stopped(warming(2, recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd())));
  Engine other(stopped);
  other.give_all();
  stopped.step(other.ctx, {});
  stopped.stop_collecting(other.ctx);
  CHECK_FALSE(stopped.warming_up());
  other.give_all();
  CHECK(stopped.step(other.ctx, {}).kept == 21);
  CHECK_FALSE(stopped.basis(0)->out().rotates());
}

TEST_CASE("engine: NaN during the warm-up is refused under raise, and does not enter the sums under skip") {
  for (const NonFinite policy : {NonFinite::raise, NonFinite::skip}) {
    GroupOptions options = warming(2, recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd(), BasisScope::layer));
    options.non_finite = policy;
    Group group(options);
    Engine engine(group);
    const Weights before = engine.result();
    std::vector<Matrix> good;
    for (std::size_t i = 0; i < 3; ++i)
      good.push_back(engine.gradient(i));
    Matrix bad = good[1];
    bad.data[9] = std::numeric_limits<double>::quiet_NaN();
    engine.give(0, good[0]);
    engine.give(1, bad);
    engine.give(2, good[2]);
    if (policy == NonFinite::raise) {
      CHECK_THROWS_AS(group.step(engine.ctx, {}), NonFiniteError);
      CHECK_THROWS_AS(group.step(engine.ctx, {}), NonFiniteError);  // and nothing is collected twice
      CHECK(group.source(0).accumulating());                        // to be looked at
      CHECK(group.finish(engine.ctx, 0).data == engine.gradients[0].data.data());
      CHECK(group.warming_up());
      engine.give(1, good[1]);
    }
    const GroupReport report = group.step(engine.ctx, {});
    CHECK(report.warming_up);
    CHECK(report.skipped == (policy == NonFinite::skip));
    engine.give_all();
    group.step(engine.ctx, {});
    CHECK_FALSE(group.warming_up());
    CHECK(engine.result() == before);
    const index_t all = 2;
    CHECK(group.basis(0)->report().gradients == all);
    CHECK(group.basis(1)->report().gradients == (policy == NonFinite::raise ? all : 1));
    CHECK(group.basis(2)->report().gradients == all);
    // Afterwards as ever.
    engine.give(0, good[0]);
    engine.give(1, bad);
    engine.give(2, good[2]);
    if (policy == NonFinite::raise) {
      CHECK_THROWS_AS(group.step(engine.ctx, {}), NonFiniteError);
    } else {
      CHECK(group.step(engine.ctx, {}).skipped);
    }
    CHECK(engine.result() == before);
  }
}

TEST_CASE("engine: the report counts states that became dense and entries that were forgotten") {
  for (const Overflow overflow : {Overflow::go_dense, Overflow::evict_smallest}) {
    GroupOptions options = keeping(5);
    options.capacity_factor = 1.2;  // 6 entries
    options.optimizer.overflow = overflow;
    Group group(options);
    Engine engine(group);
    // Entries 0..4, then 3..7 of weights 0 and 1: 8 different ones. Weight 2 stays at 0..4.
    const auto give = [&](std::size_t i, std::size_t first) {
      Matrix g = i == 2 ? Matrix(6, 8) : Matrix(8, 6);
      for (std::size_t e = first; e < first + 5; ++e)
        g.data[e] = 1 + 0.1 * static_cast<double>(e);
      engine.give(i, g);
    };
    for (std::size_t i = 0; i < 3; ++i)
      give(i, 0);
    GroupReport report = group.step(engine.ctx, {});
    CHECK(report.became_dense == 0);
    CHECK(report.evicted == 0);
    give(0, 3);
    give(1, 3);
    give(2, 0);
    report = group.step(engine.ctx, {});
    CHECK(report.became_dense == (overflow == Overflow::go_dense ? 2 : 0));
    CHECK(report.evicted == (overflow == Overflow::go_dense ? 0 : 2 * 2));  // of 8, 6 have room
    give(0, 20);
    give(1, 3);
    give(2, 0);
    report = group.step(engine.ctx, {});
    CHECK(report.became_dense == 0);
    CHECK(report.evicted == (overflow == Overflow::go_dense ? 0 : 5));
  }
}
