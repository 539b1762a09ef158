// Calls of a group in the wrong order: refused before anything has changed, and never a use of memory that is gone.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

TEST_CASE("group safety: collecting again in the middle of a step is refused and changes nothing") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  group.collect(model.ctx, {});
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  model.add_gradients();
  CHECK_THROWS_AS(group.collect(model.ctx, {}), StateError);
  group.end_collecting_step(model.ctx);

  const auto thrower = [](const std::string&) -> SideRecipes { throw ValueError("no rules"); };
  BasisRecipe bad;
  bad.sides = thrower;
  CHECK_THROWS_AS(group.collect(model.ctx, bad), ValueError);
  CHECK(group.collecting());
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
  CHECK(model.layers[0]->basis()->report().gradients == 6);
}

TEST_CASE("group safety: a collecting step outside of a collection is refused and keeps the gradients") {
  const std::string expected = "end_collecting_step: no gradients are being collected; call collect first";
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  const auto refused = [&] {
    model.add_gradients();
    CHECK(message_of([&] { group.end_collecting_step(model.ctx); }) == expected);
    CHECK(message_of([&] { group.end_collecting_step(model.ctx, 0); }) == expected);
    CHECK(model.layers[0]->accumulating());
    CHECK(group.step(model.ctx, {}).without_gradient == 0);
  };
  refused();
  group.collect(model.ctx, {});
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
  refused();
}

TEST_CASE("group safety: no layer joins while gradients are collected") {
  Model model;
  Group group(keeping(5));
  group.add(model.ctx, *model.layers[0], "up");
  group.collect(model.ctx, {});
  CHECK(message_of([&] { group.add(model.ctx, *model.layers[1], "up"); }) ==
        "add: gradients are being collected; call refresh or stop_collecting first");
  CHECK(group.size() == 1);
  model.add_gradient(0);
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
}

TEST_CASE("group safety: layers outlive their group") {
  Model model;
  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  {
    Group group(options);
    model.add_to(group);
    group.collect(model.ctx, {});
  }
  const auto expected = model.gradient(1);
  model.add(1, expected);
  const MatrixView<double> core = model.layers[1]->core(model.ctx);
  for (std::size_t e = 0; e < expected.data.size(); ++e)
    CHECK(core.data[e] == expected.data[e]);
  model.layers[1]->clear(model.ctx);
  {
    Group again(keeping(5));
    model.add_to(again);
    again.collect(model.ctx, {});
    model.layers.clear();  // and a group whose layers are gone ends as well
  }
}

TEST_CASE("group safety: a layer that was destroyed is refused by its name, and not read") {
  const std::string expected =
      "layer 1 ('up') was destroyed, expected it to live as long as the group, or until `remove`";
  Model model;
  GroupOptions options = keeping(5);
  const auto collecting = recipe_of(SideRecipe::hosvd(2), SideRecipe::identity());
  const auto destroy = [&] {
    model.layers[1].reset();
    return model.weights;
  };
  SUBCASE("by every call that would reach it") {
    Group group(options);
    model.add_to(group);
    group.step(model.ctx, {});
    const Group::State saved = group.state(model.ctx);
    model.add_gradients();
    const Weights before = destroy();
    // A new one is another layer, wherever it stands.
    model.layers[1] =
        std::make_unique<Layer>(model.ctx, MatrixView<double>(model.weights[1].data(), 8, 6), nullptr);
    const std::function<void()> calls[] = {
        [&] { group.step(model.ctx, {.learning_rate = 0.1}); },
        [&] { group.squared_norm(model.ctx); },
        [&] { group.finish_together(model.ctx); },
        [&] { group.end_micro_batch(model.ctx); },
        [&] { group.clear(model.ctx); },
        [&] { group.reserve(model.ctx); },
        [&] { (void)group.memory(model.ctx); },
        [&] { (void)group.state(model.ctx); },
        [&] { group.restore(model.ctx, saved); },
        [&] { group.collect(model.ctx, collecting); },
        [&] { group.stop_collecting(model.ctx); },
        [&] { group.check(model.ctx); },
        [&] { group.use_reduce([](B::Context&, MatrixView<double>) {}); },
        [&] { group.add(model.ctx, *model.layers[1], "up"); },
        [&] { group.remove(model.ctx, 0); },
        [&] { group.remove(model.ctx, 1); },
        [&] { group.set_basis(model.ctx, 0, nullptr); },
        [&] { (void)group.select(model.ctx, 1); },
        [&] { (void)group.finish(model.ctx, 1); },
        [&] { group.start_reduce(model.ctx, 1); },
        [&] { group.use_selector(model.ctx, 1, TopK{2}); },
        [&] { (void)group.source(1); },
        [&] { (void)group.basis(1); },
        [&] { (void)group.kept(1); },
    };
    for (const auto& call : calls)
      CHECK(message_of(call) == expected);
    CHECK(model.weights == before);
    CHECK(group.size() == 3);
    CHECK(group.basis(2) == model.layers[2]->basis());
  }
  SUBCASE("while gradients are collected") {
    Group group(options);
    model.add_to(group);
    group.collect(model.ctx, collecting);
    model.add_gradients();
    destroy();
    CHECK(message_of([&] { group.end_collecting_step(model.ctx); }) == expected);
    CHECK(message_of([&] { group.end_collecting_step(model.ctx, 1); }) == expected);
    CHECK(message_of([&] { group.refresh(model.ctx); }) == expected);
    CHECK(message_of([&] { group.stop_collecting(model.ctx); }) == expected);
  }
  SUBCASE("after its selection, in shared gradient memory") {
    options.share_gradient_memory = true;
    Group group(options);
    model.add_to(group);
    model.add_gradient(1);
    CHECK(group.select(model.ctx, 1).kept == 5);
    const Weights before = destroy();
    CHECK(message_of([&] { group.step(model.ctx, {.learning_rate = 0.1}); }) == expected);
    CHECK(model.weights == before);
  }
}

TEST_CASE("group safety: a copy and what an object was moved to have lives of their own") {
  std::weak_ptr<const void> first, second;
  Lifetime last;
  {
    Lifetime object;
    first = object.watch();
    const Lifetime copy(object);
    second = copy.watch();
    last = std::move(object);
    CHECK_FALSE(first.expired());
    CHECK_FALSE(second.expired());
  }
  CHECK(first.expired());
  CHECK(second.expired());
  CHECK_FALSE(last.watch().expired());
}

TEST_CASE("group safety: a plan, a basis or a collection that needs more of a shared memory gets it") {
  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  LinearOptions linear;
  linear.plan = Plan{SideOrder::project_first, SideOrder::project_first};
  Model model(linear);
  Group group(options);
  for (auto& layer : model.layers)
    layer->set_basis(model.ctx,
                     TuckerBasis<double, B>::from_recipes(model.ctx, layer->out_extent(), layer->in_extent(),
                                                          SideRecipe::random(2), SideRecipe::random(2)));
  model.add_to(group);
  CHECK(group.memory(model.ctx).gradients == 4 * 8);
  const auto check = [&](std::size_t i) {
    model.add_gradient(i);
    CHECK(group.select(model.ctx, static_cast<index_t>(i)).kept > 0);
    group.clear(model.ctx);
  };
  SUBCASE("a plan") {
    model.layers[0]->set_plan(model.ctx, Plan{});
    check(0);
  }
  SUBCASE("a basis") {
    model.layers[1]->set_basis(model.ctx, nullptr);
    CHECK(model.layers[1]->gradient().element_count() == 48);
    model.add_gradient(1);
    CHECK(model.layers[1]->core(model.ctx).size() == 48);
    model.layers[1]->clear(model.ctx);
  }
  SUBCASE("a collection") {
    model.layers[2]->gradient().form_weight_gradient(model.ctx, true);
    CHECK(model.layers[2]->gradient().element_count() == 48);
    check(2);
    model.layers[2]->gradient().form_weight_gradient(model.ctx, false);
    CHECK(model.layers[2]->gradient().element_count() == 4);
  }
  CHECK(group.memory(model.ctx).gradients == 48 * 8);
}

TEST_CASE("group safety: a shared memory does not grow under a gradient, nor take two layers' at once") {
  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  Model model;
  Group group(options);
  std::vector<double> large(200);
  Layer larger(model.ctx, MatrixView<double>(large.data(), 10, 20), nullptr);
  model.add_to(group);
  const auto g = model.add_gradient(0);
  CHECK_THROWS_AS(group.add(model.ctx, larger, "large"), StateError);
  CHECK(group.size() == 3);
  CHECK_THROWS_AS(model.add_gradient(1), StateError);
  CHECK_THROWS_AS(model.layers[1]->core(model.ctx), StateError);
  const MatrixView<double> core = model.layers[0]->core(model.ctx);
  for (std::size_t e = 0; e < g.data.size(); ++e)
    CHECK(core.data[e] == g.data[e]);
  group.select(model.ctx, 0);
  model.add_gradient(1);  // layer 0 has had its turn
  group.clear(model.ctx);
  group.add(model.ctx, larger, "large");

  // All backward passes, then the end of the collecting step: one layer's gradient was another's before.
  group.collect(model.ctx, {});
  model.add_gradient(0);
  CHECK_THROWS_AS(model.add_gradient(1), StateError);
  group.clear(model.ctx);
  // A second backward after the selection would be the selection's end.
  model.add_gradient(0);
  group.select(model.ctx, 0);
  model.add_gradient(0);
  CHECK_THROWS_AS(group.select(model.ctx, 0), StateError);
  CHECK_THROWS_AS(group.step(model.ctx, {}), StateError);
}

TEST_CASE(
    "group safety: clipping counts the norm of layers that were selected before, or says that it cannot") {
  Model model;
  Model other;
  Group group(keeping(6));
  Group usual(keeping(6));
  model.add_to(group);
  other.add_to(usual);
  model.add_gradients();
  other.add_gradients();
  const Weights before = model.weights;
  const auto clipped = [](Group& g, B::Context& ctx) {
    const double norm = std::sqrt(g.squared_norm(ctx));
    CHECK(norm > 0.1);
    g.step(ctx, {.grad_scale = 0.1 / norm});
  };
  group.select(model.ctx, 0);
  CHECK(contains(message_of([&] { clipped(group, model.ctx); }), "layer 0"));
  CHECK(model.weights == before);
  group.select(model.ctx, 0, true);
  clipped(group, model.ctx);
  clipped(usual, other.ctx);
  CHECK(model.weights == other.weights);
}

TEST_CASE("group safety: transported moments follow a basis of another rank") {
  Model model;
  GroupOptions options = keeping(48);
  options.capacity_factor = 0;
  Group group(options);
  model.add_to(group);
  group.collect(model.ctx, recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd()));
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
  model.add_gradients();
  group.step(model.ctx, {});
  double energy = 0;
  for (const double m : group.optimizer(0).state(model.ctx).array("m"))
    energy += m * m;
  group.collect(model.ctx, recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)));
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx, MomentsPolicy::transport);
  CHECK(group.optimizer(0).steps() == 1);
  double moved = 0;
  for (const double m : group.optimizer(0).state(model.ctx).array("m"))
    moved += m * m;
  CHECK(moved > 0.1 * energy);
  CHECK(moved <= energy);
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 3 * 20);
}

TEST_CASE("group safety: a layer without a gradient is left out of the step") {
  for (const AdamSemantics semantics : {AdamSemantics::torch, AdamSemantics::dense_core}) {
    Model model;
    GroupOptions options = keeping(5);
    options.optimizer.semantics = semantics;
    Group group(options);
    model.add_to(group);
    model.add_gradients();
    group.step(model.ctx, {.learning_rate = 0.1});
    const Weights before = model.weights;
    model.add_gradient(0);
    CHECK(group.step(model.ctx, {.learning_rate = 0.1, .weight_decay = 0.1}).kept == 5);
    CHECK(model.weights[0] != before[0]);
    CHECK(model.weights[1] == before[1]);
    CHECK(model.weights[2] == before[2]);
    CHECK(group.optimizer(1).steps() == 1);
    CHECK(group.select(model.ctx, 1).kept == 0);
  }
}

TEST_CASE("group safety: a basis is not cut out of gradients that are all 0") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  const auto collect_zeros = [&](const SideRecipe& out) {
    group.collect(model.ctx, recipe_of(out, SideRecipe::identity()));
    for (std::size_t i = 0; i < 3; ++i) {
      oracle::Matrix zero = model.gradient(i);
      zero.data.assign(zero.data.size(), 0.0);
      model.add(i, zero);
    }
    group.end_collecting_step(model.ctx);
  };
  collect_zeros(SideRecipe::hosvd(2));
  const auto basis = model.layers[0]->basis();
  CHECK(
      message_of([&] { group.refresh(model.ctx); }) ==
      "the basis of kind 'up', 8x6, cannot be cut to 2x6: all 2 gradients that were collected are 0; full or "
      "random sides need none");
  CHECK(model.layers[0]->basis() == basis);
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
  CHECK(model.layers[0]->basis()->rows() == 2);
  for (const SideRecipe& side : {SideRecipe::hosvd(), SideRecipe::random(2)}) {
    collect_zeros(side);
    group.refresh(model.ctx);
  }
}

TEST_CASE("group safety: refresh and stop_collecting change all layers or none") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  group.collect(model.ctx, {});
  CHECK(contains(message_of([&] { group.refresh(model.ctx); }), "needs gradients, and none was collected"));
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  model.add_gradient(2);
  const auto basis = model.layers[0]->basis();
  CHECK_THROWS_AS(group.refresh(model.ctx), StateError);
  CHECK(model.layers[0]->basis() == basis);
  CHECK_THROWS_AS(group.stop_collecting(model.ctx), StateError);
  CHECK(group.collecting());
  group.end_collecting_step(model.ctx);
  group.refresh(model.ctx);
  CHECK(model.layers[0]->basis()->report().gradients == 2);
  CHECK(model.layers[2]->basis()->report().gradients == 2);
}

TEST_CASE("group safety: NaN under skip while collecting leaves the step and that gradient out") {
  GroupOptions options = keeping(5);
  options.non_finite = NonFinite::skip;
  Model model;
  Group group(options);
  model.add_to(group);
  group.collect(model.ctx, {});
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  const Weights before = model.weights;
  for (const bool trains : {true, false}) {
    model.add_gradient(0);
    oracle::Matrix bad = model.gradient(1);
    bad.data[3] = std::numeric_limits<double>::infinity();
    model.add(1, bad);
    model.add_gradient(2);
    if (trains) {
      CHECK(group.step(model.ctx, {}).skipped);
    } else {
      CHECK(group.end_collecting_step(model.ctx) == 1);
    }
  }
  CHECK(model.weights == before);
  group.refresh(model.ctx);
  CHECK(model.layers[0]->basis()->report().gradients == 4);
  CHECK(model.layers[2]->basis()->report().gradients == 3);
}

TEST_CASE("group safety: a layer's number is checked") {
  Model model;
  Group group(keeping(4));
  model.add_to(group);
  CHECK(message_of([&] { (void)group.source(3); }) ==
        "index is 3, expected 0 <= index < 3, the weights of the group");
  CHECK(message_of([&] { (void)group.kept(-1); }) ==
        "index is -1, expected 0 <= index < 3, the weights of the group");
}

namespace {

/// Runs out of memory for large arrays when told to.
struct Scarce : B {
  static inline bool scarce = false;
  struct Memory : B::Memory {
    std::byte* allocate(std::size_t bytes) {
      if (scarce && bytes >= 48 * sizeof(double)) throw std::bad_alloc();
      return B::Memory::allocate(bytes);
    }
  };
  static Memory memory(const Context&) { return {}; }
};

}  // namespace

TEST_CASE("group safety: no memory for a state that goes dense: no layer has moved") {
  Scarce::Context ctx;
  oracle::Random random(3);
  Weights weights;
  std::vector<std::unique_ptr<SparseGradLinear<double, Scarce>>> layers;
  GroupOptions options = keeping(5);
  options.capacity_factor = 1;
  options.optimizer.overflow = Overflow::go_dense;
  SparseGradGroup<double, Scarce> group(options);
  for (int i = 0; i < 2; ++i) {
    weights.push_back(random.matrix(8, 6).data);
    layers.push_back(std::make_unique<SparseGradLinear<double, Scarce>>(
        ctx, MatrixView<double>(weights.back().data(), 8, 6), nullptr));
    group.add(ctx, *layers.back(), "up");
  }
  const oracle::Matrix first = random.matrix(8, 6);
  const oracle::Matrix second = random.matrix(8, 6);
  const auto add = [&](std::size_t i, const oracle::Matrix& g) {
    layers[i]->add_gradient(ctx, MatrixView<const double>(g.data.data(), 8, 6));
  };
  add(0, first);
  add(1, first);
  group.step(ctx, {});
  const Weights before = weights;
  add(0, first);  // the same support again: layer 0 stays compact
  add(1, second);
  Scarce::scarce = true;
  CHECK_THROWS_AS(group.step(ctx, {}), std::bad_alloc);
  Scarce::scarce = false;
  CHECK(weights == before);
  CHECK(group.optimizer(0).steps() == 1);
  group.step(ctx, {});
  CHECK(weights[0] != before[0]);
  CHECK(weights[1] != before[1]);
}

// What follows has no counterpart in versions before.

TEST_CASE("group safety: a collecting step ends layer by layer in shared gradient memory") {
  Model model;
  Model apart;
  GroupOptions options = keeping(5);
  Group usual(options);
  options.share_gradient_memory = true;
  Group group(options);
  model.add_to(group);
  apart.add_to(usual);
  group.collect(model.ctx, {});
  usual.collect(apart.ctx, {});
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < 3; ++i) {
      model.add_gradient(i);
      group.end_collecting_step(model.ctx, static_cast<index_t>(i));
    }
    if (step == 1) group.end_collecting_step(model.ctx);
    apart.add_gradients();
    usual.end_collecting_step(apart.ctx);
  }
  group.refresh(model.ctx);
  usual.refresh(apart.ctx);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(model.layers[i]->basis()->report().out.spectrum == apart.layers[i]->basis()->report().out.spectrum);
    CHECK(model.layers[i]->basis()->report().gradients == apart.layers[i]->basis()->report().gradients);
    model.add_gradient(i);
    CHECK(group.select(model.ctx, static_cast<index_t>(i)).kept == 5);
  }
  CHECK(group.step(model.ctx, {}).without_gradient == 0);
  apart.add_gradients();
  usual.step(apart.ctx, {});
  CHECK(model.weights == apart.weights);
}

TEST_CASE("group safety: a layer that ends in its turn leaves the shared memory usable") {
  static_assert(!std::is_move_constructible_v<Layer> && !std::is_move_assignable_v<Layer>);
  Model model;
  auto memory = std::make_shared<GradientMemory<double, B>>();
  for (auto& layer : model.layers)
    layer->gradient().share_memory(model.ctx, memory);
  model.add_gradient(0);
  CHECK_THROWS_AS(model.add_gradient(1), StateError);
  model.layers[0].reset();
  CHECK_FALSE(memory->in_use());
  const oracle::Matrix g = model.add_gradient(1);
  CHECK(memory->in_use());
  CHECK(model.layers[1]->core(model.ctx).data[5] == g.data[5]);
  model.layers[2].reset();
  memory.reset();  // layer 1 is its last owner, in the middle of its turn
  model.layers[1]->clear(model.ctx);
  model.add(1, g);
  CHECK(model.layers[1]->core(model.ctx).data[5] == g.data[5]);
  model.layers.clear();  // and ends in it
}

TEST_CASE("group safety: refresh reports what its rebase lost") {
  Model model;
  Group group(keeping(48));
  model.add_to(group);
  model.add_gradients();
  group.step(model.ctx, {});
  group.collect(model.ctx, recipe_of(SideRecipe::random(4), SideRecipe::identity(), BasisScope::layer));
  const auto state = group.optimizer(0).state(model.ctx);
  const std::vector<RebaseReport> reports = group.refresh(model.ctx, MomentsPolicy::transport);
  REQUIRE(reports.size() == 3);
  double before = 0;
  double after = 0;
  for (const double m : state.array("m"))
    before += m * m;
  for (const double m : group.optimizer(0).state(model.ctx).array("m"))
    after += m * m;
  CHECK(reports[0].energy_before == doctest::Approx(before));
  CHECK(reports[0].lost_to_basis == doctest::Approx(1 - after / before));
  const RebaseReport single = group.set_basis(model.ctx, 1, nullptr, MomentsPolicy::transport);
  CHECK(single.energy_before > 0);
  CHECK(single.lost_to_basis == doctest::Approx(0));
}

TEST_CASE("group safety: the last layer's state is full: no layer has moved") {
  Model model;
  GroupOptions options = keeping(4);
  options.optimizer.overflow = Overflow::error;
  options.capacity_factor = 1.5;
  Group group(options);
  model.add_to(group);
  const auto add = [&](std::size_t i, index_t first) {
    oracle::Matrix g = model.gradient(i);
    for (std::size_t e = 0; e < 4; ++e)
      g.data[static_cast<std::size_t>(first) + e] = 10 + static_cast<double>(e);
    model.add(i, g);
  };
  for (std::size_t i = 0; i < 3; ++i)
    add(i, 0);
  group.step(model.ctx, {});
  const Weights before = model.weights;
  std::vector<OptimizerState<double>> states;
  for (index_t i = 0; i < 3; ++i)
    states.push_back(group.optimizer(i).state(model.ctx));
  add(0, 0);
  add(1, 0);
  add(2, 20);  // four new entries where two have room
  CHECK_THROWS_AS(group.step(model.ctx, {}), CapacityError);
  CHECK(model.weights == before);
  for (index_t i = 0; i < 3; ++i)
    CHECK(group.optimizer(i).state(model.ctx) == states[static_cast<std::size_t>(i)]);
}

TEST_CASE("group safety: layers without a gradient are counted") {
  GroupOptions options = keeping(5);
  options.warmup_steps = 2;
  Model model;
  Group group(options);
  model.add_to(group);
  for (int step = 0; step < 3; ++step) {
    CAPTURE(step);
    model.add_gradients();
    CHECK(group.step(model.ctx, {}).without_gradient == 0);
    if (step == 0) continue;
    model.add_gradient(1);
    CHECK(group.step(model.ctx, {}).without_gradient == 2);
  }
  CHECK(group.step(model.ctx, {}).without_gradient == 3);
}

TEST_CASE("group safety: a warm-up step counts the layers without a gradient") {
  GroupOptions options = keeping(5);
  options.warmup_steps = 3;
  Model model;
  Group group(options);
  model.add_to(group);
  model.add_gradient(2);
  const GroupReport report = group.step(model.ctx, {});
  CHECK(report.warming_up);
  CHECK(report.without_gradient == 2);
}

TEST_CASE("group safety: a backward after a layer's own end of the collecting step is one gradient more") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  group.collect(model.ctx, {});
  HosvdAccumulator<double, B> sums(model.ctx, 8, 6);
  const auto take = [&](std::size_t i) {
    const oracle::Matrix g = model.add_gradient(i);
    if (i < 2) sums.add(model.ctx, MatrixView<const double>(g.data.data(), 8, 6));
  };
  take(0);
  group.end_collecting_step(model.ctx, 0);
  take(0);
  take(1);
  take(2);
  CHECK(group.end_collecting_step(model.ctx) == 0);
  group.refresh(model.ctx);
  CHECK(model.layers[0]->basis()->report().gradients == 3);
  CHECK(model.layers[0]->basis()->report().total_energy == doctest::Approx(sums.total_energy()));

  // In shared memory a backward after the selection has overwritten the selected core: refused, as by step.
  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  Model other;
  Group sharing(options);
  other.add_to(sharing);
  sharing.collect(other.ctx, {});
  other.add_gradient(0);
  sharing.select(other.ctx, 0);
  other.add_gradient(0);
  CHECK_THROWS_AS(sharing.end_collecting_step(other.ctx), StateError);
}

TEST_CASE("group safety: tokens that were saved in another basis of the same rank are refused") {
  LinearOptions linear;
  linear.plan = Plan{SideOrder::project_first, SideOrder::project_first};
  Model model(linear);
  const auto basis = [&](std::uint64_t seed) {
    return TuckerBasis<double, B>::from_recipes(model.ctx, 8, 6, SideRecipe::random(3, seed),
                                                SideRecipe::random(2, seed));
  };
  Layer& layer = *model.layers[0];
  layer.set_basis(model.ctx, basis(1));
  const oracle::Matrix x = model.random.matrix(5, 6);
  const oracle::Matrix dy = model.random.matrix(5, 8);
  std::vector<double> y(5 * 8), keep(5 * 2);
  const MatrixView<const double> dy_view(dy.data.data(), 5, 8);
  const auto forward = [&](bool keeps) {
    REQUIRE(layer.kept_cols() == 2);
    return layer.forward(model.ctx, {x.data.data(), 5, 6}, {y.data(), 5, 8},
                         keeps ? MatrixView<double>(keep.data(), 5, 2) : MatrixView<double>());
  };
  const SavedInput<double> projected = forward(true);
  const SavedInput<double> whole = forward(false);
  layer.set_plan(model.ctx, Plan{SideOrder::project_first, SideOrder::multiply_first});
  CHECK(message_of([&] { layer.backward(model.ctx, dy_view, projected, {}, nullptr); }) ==
        "backward: the saved input is x U, but the layer needs x; it was made before collect or set_plan");
  CHECK_FALSE(layer.accumulating());
  layer.set_plan(model.ctx, linear.plan);
  layer.set_basis(model.ctx, basis(2));
  CHECK(
      message_of([&] { layer.backward(model.ctx, dy_view, projected, {}, nullptr); }) ==
      "backward: the saved input is x U in another basis than the layer's; it was made before set_basis (or "
      "refresh): call forward again");
  CHECK_FALSE(layer.accumulating());
  layer.backward(model.ctx, dy_view, whole, {}, nullptr);  // x itself serves any basis
  layer.clear();

  // Layers that share the basis may share what was saved.
  const SavedInput<double> again = forward(true);
  model.layers[1]->set_basis(model.ctx, layer.basis());
  model.layers[1]->backward(model.ctx, dy_view, again, {}, nullptr);
  layer.backward(model.ctx, dy_view, again, {}, nullptr);
  CHECK(model.layers[1]->core(model.ctx).data[3] == layer.core(model.ctx).data[3]);
}

namespace {

/// Whose products fail when told to.
struct FailingProducts : B {
  static inline bool fails = false;
  template <class T, class... A>
  static void gemm(Context& ctx, A&&... a) {
    if (fails) throw std::bad_alloc();
    B::gemm<T>(ctx, std::forward<A>(a)...);
  }
};

/// A core that fails between its two projections, which the first did in place; `source` holds dW.
template <class Source, class Give>
void check_half_projected(FailingProducts::Context& ctx, Source& source, Give&& give) {
  source.set_basis(ctx, TuckerBasis<double, FailingProducts>::from_recipes(ctx, 8, 6, SideRecipe::random(8),
                                                                           SideRecipe::hadamard()));
  give();
  const MatrixView<const double> core = source.own_core(ctx);
  const std::vector<double> expected(core.data, core.data + core.size());
  source.clear();
  give();
  FailingProducts::fails = true;
  CHECK_THROWS_AS(source.own_core(ctx), std::bad_alloc);
  FailingProducts::fails = false;
  for (int again = 0; again < 2; ++again)
    CHECK(contains(message_of([&] { source.own_core(ctx); }), "call clear and begin the step again"));
  CHECK_THROWS_AS(source.weight_gradient(ctx), StateError);
  CHECK_THROWS_AS(give(), StateError);
  CHECK(source.accumulating());
  source.clear();
  give();
  const MatrixView<const double> found = source.own_core(ctx);
  CHECK(std::vector<double>(found.data, found.data + found.size()) == expected);
}

}  // namespace

TEST_CASE("group safety: a gradient that was projected in part is not projected again") {
  FailingProducts::Context ctx;
  oracle::Random random(5);
  const oracle::Matrix g = random.matrix(8, 6);
  const MatrixView<const double> dw(g.data.data(), 8, 6);
  SUBCASE("of tokens") {
    CoreGradient<double, FailingProducts> source(ctx, 8, 6, {.plan = Plan{}});
    check_half_projected(ctx, source, [&] { source.add(ctx, dw); });
  }
  SUBCASE("a dW of the engine's that was copied") {
    GivenGradient<double, FailingProducts> source(ctx, 8, 6);
    check_half_projected(ctx, source, [&] {
      source.set({dw});
      source.weight_gradient(ctx);
    });
  }
  SUBCASE("a dW of the engine's is read alone: that can be done again") {
    GivenGradient<double, FailingProducts> source(ctx, 8, 6);
    source.set_basis(ctx, TuckerBasis<double, FailingProducts>::from_recipes(ctx, 8, 6, SideRecipe::random(8),
                                                                             SideRecipe::hadamard()));
    source.set({dw});
    FailingProducts::fails = true;
    CHECK_THROWS_AS(source.own_core(ctx), std::bad_alloc);
    FailingProducts::fails = false;
    CHECK_NOTHROW(source.own_core(ctx));
  }
}
