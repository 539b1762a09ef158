// The whole method on a backend whose memory is not the host's, against backend::Reference: a file that includes this
// names the backend first, as `DeviceBackend`, with a Context that is made without arguments.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/tensor.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "device_memory.hpp"

namespace sparsegrad::test {

/// What is varied from run to run.
struct MethodCase {
  const char* name;
  SideRecipe out = SideRecipe::hosvd();
  SideRecipe in = SideRecipe::hosvd();
  AdamSemantics semantics = AdamSemantics::torch;
  double density = 0.1;
  double capacity_factor = 2;
  WeightLayout layout = WeightLayout::out_in;
  BasisScope scope = BasisScope::kind;
  Overflow overflow = Overflow::go_dense;
};

template <class T>
struct MethodResult {
  std::vector<Host<T>> weights;
  std::vector<Host<stored_index_t>> supports;  ///< of the last step
  std::vector<Host<T>> outputs;                ///< y, dX and db of the last step
};

/// grad_scale, made smaller where the cores' norm would be above max_norm with it.
template <class Context, class Group>
double clipped_scale(Context& ctx, Group& group, double grad_scale, double max_norm) {
  return std::min(grad_scale, max_norm / std::sqrt(group.squared_norm(ctx)));
}

inline bool needs_gradients(const SideRecipe& side) {
  return std::holds_alternative<SideRecipe::Hosvd>(side.choice());
}

/// Two matrices [12, 8]: three collecting steps, the fit, four steps, a refresh with transported moments, two steps. They
/// are layers, or, with `given`, weights whose gradients are given, the second's in the other layout; the three steps are
/// then the group's own warm-up.
template <class B, class T>
MethodResult<T> run_method(const MethodCase& c, bool given = false) {
  constexpr index_t out = 12;
  constexpr index_t in = 8;
  constexpr index_t tokens = 7;
  std::mt19937_64 random(5);
  typename B::Context ctx;
  const bool out_in = c.layout == WeightLayout::out_in;

  std::vector<Buffer<T, B>> weights, biases;
  std::vector<std::unique_ptr<SparseGradLinear<T, B>>> layers;
  GroupOptions options;
  options.density = c.density;
  options.capacity_factor = c.capacity_factor;
  options.optimizer.semantics = c.semantics;
  options.optimizer.overflow = c.overflow;
  options.recipe.scope = c.scope;
  options.recipe.sides = [&](const std::string&) { return SideRecipes{c.out, c.in}; };
  options.warmup_steps = given ? 3 : 0;
  SparseGradGroup<T, B> group(options);
  for (int i = 0; i < 2; ++i) {
    weights.push_back(to_device<B>(ctx, normal<T>(random, out * in)));
    biases.push_back(to_device<B>(ctx, normal<T>(random, out)));
  }
  for (std::size_t i = 0; i < 2; ++i) {
    const MatrixView<T> weight = weights[i].matrix(out_in ? out : in, out_in ? in : out);
    if (given) {
      group.add_weight(ctx, weight, "up", {.layout = c.layout});
      continue;
    }
    layers.push_back(
        std::make_unique<SparseGradLinear<T, B>>(ctx, weight, biases[i].data(), LinearOptions{c.layout}));
    group.add(ctx, *layers[i], "up");
  }

  MethodResult<T> result;
  std::vector<Buffer<T, B>> gradients(2);
  const auto give = [&](index_t i) {
    const WeightLayout other = out_in ? WeightLayout::in_out : WeightLayout::out_in;
    const bool rows_out = (i == 0 ? c.layout : other) == WeightLayout::out_in;
    Buffer<T, B>& dw = gradients[static_cast<std::size_t>(i)];
    dw = to_device<B>(ctx, normal<T>(random, out * in));
    const MatrixView<const T> view = dw.matrix(rows_out ? out : in, rows_out ? in : out);
    if (i == 0) return group.set_gradient(i, view);
    group.set_gradient(i, view, other);
  };
  const auto pass = [&] {
    if (given) {
      give(0);
      give(1);
    }
    result.outputs.clear();
    for (auto& layer : layers) {
      const Buffer<T, B> x = to_device<B>(ctx, normal<T>(random, tokens * in));
      const Buffer<T, B> dy = to_device<B>(ctx, normal<T>(random, tokens * out));
      Buffer<T, B> y(ctx, tokens * out);
      Buffer<T, B> dx(ctx, tokens * in);
      Buffer<T, B> db(ctx, out);
      Buffer<T, B> keep(ctx, tokens * layer->kept_cols());
      const auto saved = layer->forward(ctx, x.matrix(tokens, in), y.matrix(tokens, out),
                                        keep.matrix(tokens, layer->kept_cols()));
      layer->backward(ctx, dy.matrix(tokens, out), saved, dx.matrix(tokens, in), db.data());
      for (const Buffer<T, B>* b : {&y, &dx, &db})
        result.outputs.push_back(to_host<B>(ctx, b->data(), b->size()));
    }
  };
  const auto collect = [&](int steps, MomentsPolicy moments) {
    if (group.warming_up()) {
      for (int s = 0; s < steps; ++s) {
        pass();
        // A recipe that needs no gradients ends the warm-up with its first step.
        CHECK(group.step(ctx, {}).warming_up == (s == 0 || needs_gradients(c.out) || needs_gradients(c.in)));
      }
      return;
    }
    group.collect(ctx, options.recipe);
    for (int s = 0; s < steps; ++s) {
      pass();
      group.end_collecting_step(ctx);
    }
    group.refresh(ctx, moments);
  };
  const auto train = [&](int steps) {
    for (int s = 0; s < steps; ++s) {
      pass();
      pass();  // gradients of two micro-batches add up; a given one takes the place of the one before
      group.step(
          ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .grad_scale = clipped_scale(ctx, group, 0.5, 1)});
    }
  };
  collect(3, MomentsPolicy::reset);
  train(4);
  // One gradient of 12 x 8 would leave vectors of the out side undetermined.
  collect(2, MomentsPolicy::transport);
  train(2);

  for (std::size_t i = 0; i < 2; ++i) {
    result.weights.push_back(to_host<B>(ctx, weights[i].data(), weights[i].size()));
    const auto& s = group.gradient(static_cast<index_t>(i));
    result.supports.push_back(s.dense() ? Host<stored_index_t>() : to_host<B>(ctx, s.indices(), s.count()));
  }
  return result;
}

inline std::vector<MethodCase> method_cases() {
  std::vector<MethodCase> cases;
  const auto add = [&](MethodCase c) { cases.push_back(c); };
  add({.name = "both sides full, top-k"});
  add({.name = "both sides full, a basis a layer", .scope = BasisScope::layer});
  add({.name = "both sides full, weight [in, out]", .layout = WeightLayout::in_out});
  add({.name = "both sides full, dense state", .capacity_factor = 0});
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    add({.name = "dense state, out side of rank 3, top-k",
         .out = SideRecipe::hosvd(3),
         .in = SideRecipe::identity(),
         .capacity_factor = 0,
         .layout = layout});
    add({.name = "dense state, in side of rank 3, all entries",
         .out = SideRecipe::identity(),
         .in = SideRecipe::hosvd(3),
         .semantics = AdamSemantics::per_entry_step,
         .density = 1,
         .layout = layout});
  }
  add({.name = "dense state, fast transform and rank 3, [in, out]",
       .out = SideRecipe::hosvd(3),
       .in = SideRecipe::hadamard(),
       .capacity_factor = 0,
       .layout = WeightLayout::in_out});
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    add({.name = "both sides full, dense state, few entries",
         .density = 0.03,
         .capacity_factor = 0,
         .layout = layout});
    add({.name = "full and rank 3, dense state, few entries",
         .out = SideRecipe::hosvd(3),
         .density = 0.01,
         .capacity_factor = 0,
         .layout = layout});
  }
  add({.name = "dense state, all moments move",
       .semantics = AdamSemantics::dense_core,
       .capacity_factor = 0});
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    add({.name = "dense state, no basis",
         .out = SideRecipe::identity(),
         .in = SideRecipe::identity(),
         .capacity_factor = 0,
         .layout = layout});
  }
  add({.name = "few entries", .density = 0.02});
  add({.name = "eviction", .capacity_factor = 1.2, .overflow = Overflow::evict_smallest});
  add({.name = "out side of rank 3, all entries",
       .out = SideRecipe::hosvd(3),
       .in = SideRecipe::identity(),
       .semantics = AdamSemantics::dense_core,
       .density = 1});
  add({.name = "in side of rank 3, top-k", .out = SideRecipe::identity(), .in = SideRecipe::hosvd(3)});
  add({.name = "in side of rank 3, top-k, weight [in, out]",
       .out = SideRecipe::identity(),
       .in = SideRecipe::hosvd(3),
       .layout = WeightLayout::in_out});
  add({.name = "fast transforms", .out = SideRecipe::hadamard(), .in = SideRecipe::hadamard()});
  add({.name = "random and identity", .out = SideRecipe::random(), .in = SideRecipe::identity()});
  add({.name = "no basis", .out = SideRecipe::identity(), .in = SideRecipe::identity()});
  add({.name = "counts of their own", .semantics = AdamSemantics::per_entry_step});
  add({.name = "all moments move", .semantics = AdamSemantics::dense_core});
  return cases;
}

TEST_CASE("the method equals the reference's, support for support") {
  // In double: the bases' signs are free, and what the method makes of them does not depend on them.
  for (const bool given : {false, true}) {
    for (const MethodCase& c : method_cases()) {
      CAPTURE(std::string(c.name));
      CAPTURE(given);
      const MethodResult<double> expected = run_method<backend::Reference, double>(c, given);
      const MethodResult<double> found = run_method<DeviceBackend, double>(c, given);
      CHECK(found.supports == expected.supports);
      const auto near = [](const std::vector<Host<double>>& a, const std::vector<Host<double>>& b) {
        double worst = 0;
        for (std::size_t i = 0; i < a.size(); ++i)
          for (std::size_t e = 0; e < a[i].size(); ++e)
            worst = std::max(worst, std::abs(a[i][e] - b[i][e]));
        return worst;
      };
      CHECK(near(found.weights, expected.weights) < 1e-9);
      REQUIRE(found.outputs.size() == (given ? 0 : 6));
      CHECK(near(found.outputs, expected.outputs) < 1e-8);
    }
  }
}

TEST_CASE("in float the method stays near the reference's") {
  for (const MethodCase& c : method_cases()) {
    CAPTURE(std::string(c.name));
    const MethodResult<float> expected = run_method<backend::Reference, float>(c);
    const MethodResult<float> found = run_method<DeviceBackend, float>(c);
    if (found.supports != expected.supports) continue;  // equal but for the rounding of near ties
    for (std::size_t i = 0; i < expected.weights.size(); ++i)
      for (std::size_t e = 0; e < expected.weights[i].size(); ++e)
        CHECK(std::abs(found.weights[i][e] - expected.weights[i][e]) < 2e-3F);
  }
}

/// Who makes the gradients of a group: its layers, or the engine.
enum class Source { layers, given };

/// Matrices of two kinds, whose whole step can be taken together; without bases layers' alone. Given gradients are set in
/// each step, in either layout, or stand.
struct ManyLayers {
  using B = DeviceBackend;
  static constexpr std::size_t count = 6;

  explicit ManyLayers(std::optional<double> capacity_factor = 0, NonFinite non_finite = NonFinite::raise,
                      Source source = Source::layers, bool bases = true)
      : random(11) {
    GroupOptions options;
    options.density = 0.2;
    options.capacity_factor = capacity_factor;
    options.optimizer.overflow = Overflow::go_dense;  // a compact state keeps what a dense one does
    options.non_finite = non_finite;
    group = std::make_unique<SparseGradGroup<double, B>>(options);
    for (std::size_t i = 0; i < count; ++i) {
      const std::string kind = i % 2 == 0 ? "up" : "down";
      weights.push_back(to_device<B>(ctx, normal<double>(random, out(i) * in(i))));
      memory.emplace_back(ctx, out(i) * in(i));
      const MatrixView<double> weight = weights.back().matrix(out(i), in(i));
      if (source == Source::layers) {
        layers.push_back(std::make_unique<SparseGradLinear<double, B>>(ctx, weight, nullptr));
        group->add(ctx, *layers.back(), kind);
      } else if (stands(i)) {
        group->add_weight(ctx, weight, kind, {.gradient = memory.back().matrix(out(i), in(i))});
      } else {
        group->add_weight(ctx, weight, kind);
      }
    }
    if (!bases) return;
    BasisRecipe recipe;
    recipe.sides = [](const std::string& kind) {
      if (kind == "up") return SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(3)};
      return SideRecipes{};
    };
    group->collect(ctx, recipe);
    gradients();
    group->end_collecting_step(ctx);
    group->refresh(ctx);
  }
  static index_t out(std::size_t i) { return i % 2 == 0 ? 9 : 5; }
  static index_t in(std::size_t i) { return 14 - out(i); }
  static bool is_turned(std::size_t i) { return i % 3 == 1; }
  static bool stands(std::size_t i) { return i % 3 == 2; }

  void gradients(index_t poisoned = -1) {
    write_gradients(poisoned);
    give_gradients();
  }
  /// The engine's part: dW in device memory.
  void write_gradients(index_t poisoned = -1) {
    for (std::size_t i = 0; i < count; ++i) {
      Host<double> g = normal<double>(random, out(i) * in(i));
      if (static_cast<index_t>(i) == poisoned) g[8] = std::nan("");
      if (layers.empty() && is_turned(i)) {
        const Host<double> stored = g;
        for (std::size_t e = 0; e < g.size(); ++e) {
          const auto rows = static_cast<std::size_t>(out(i));
          g[e] = stored[e % rows * static_cast<std::size_t>(in(i)) + e / rows];
        }
      }
      B::upload<double>(ctx, g.data(), memory[i].data(), memory[i].size());
    }
  }
  void give_gradients() {
    for (std::size_t i = 0; i < count; ++i) {
      if (!layers.empty()) {
        layers[i]->add_gradient(ctx, memory[i].matrix(out(i), in(i)));
      } else if (is_turned(i)) {
        group->set_gradient(static_cast<index_t>(i), memory[i].matrix(in(i), out(i)), WeightLayout::in_out);
      } else if (!stands(i)) {
        group->set_gradient(static_cast<index_t>(i), memory[i].matrix(out(i), in(i)));
      }
    }
  }
  Host<double> all_weights() {
    Host<double> all;
    for (const Buffer<double, B>& w : weights) {
      const Host<double> part = to_host<B>(ctx, w.data(), w.size());
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  std::mt19937_64 random;
  B::Context ctx;
  std::vector<Buffer<double, B>> weights, memory;
  std::vector<std::unique_ptr<SparseGradLinear<double, B>>> layers;  ///< empty: gradients are given
  std::unique_ptr<SparseGradGroup<double, B>> group;
};

TEST_CASE("layers that step together do what they do one after the other") {
  // A selection of the caller's own is made layer by layer; eviction's compact state steps by itself.
  ManyLayers together;
  ManyLayers apart(1.5);
  apart.group->use_selector(
      [](DeviceBackend::Context& ctx, MatrixView<const double> core,
         SparseGradient<double, DeviceBackend>& s) { return TopK{s.capacity()}(ctx, core, s); });
  for (int s = 0; s < 5; ++s) {
    for (ManyLayers* m : {&together, &apart}) {
      m->gradients();
      const double scale = s == 3 ? clipped_scale(m->ctx, *m->group, 1, 1) : 1;
      m->group->step(m->ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .grad_scale = scale});
    }
    for (index_t i = 0; i < together.group->size(); ++i) {
      const auto& a = together.group->gradient(i);
      const auto& b = apart.group->gradient(i);
      REQUIRE(to_host<DeviceBackend>(together.ctx, a.indices(), a.count()) ==
              to_host<DeviceBackend>(apart.ctx, b.indices(), b.count()));
    }
  }
  const Host<double> found = together.all_weights();
  const Host<double> expected = apart.all_weights();
  for (std::size_t e = 0; e < found.size(); ++e)
    CHECK(found[e] == doctest::Approx(expected[e]).epsilon(1e-12));
}

TEST_CASE("layers without bases step together, bit by bit as one after the other") {
  using B = DeviceBackend;
  constexpr index_t n = 20;
  // Without a look for NaN the weights decay in the update, else before it.
  for (const auto& [layout, policy] : {std::pair(WeightLayout::out_in, NonFinite::raise),
                                       std::pair(WeightLayout::in_out, NonFinite::propagate)}) {
    const auto train = [&, layout = layout, policy = policy](bool together) {
      B::Context ctx;
      std::mt19937_64 random(23);
      GroupOptions options;
      options.density = 0.1;
      options.capacity_factor = 0;
      options.share_gradient_memory = !together;  // a core is gone before the step
      options.non_finite = policy;
      SparseGradGroup<float, B> group(options);
      std::vector<Buffer<float, B>> weights;
      std::vector<std::unique_ptr<SparseGradLinear<float, B>>> layers;
      for (std::size_t i = 0; i < 3; ++i) {
        weights.push_back(to_device<B>(ctx, normal<float>(random, n * n)));
        layers.push_back(std::make_unique<SparseGradLinear<float, B>>(ctx, weights[i].matrix(n, n), nullptr,
                                                                      LinearOptions{layout}));
        group.add(ctx, *layers[i], "up");
      }
      for (int s = 0; s < 4; ++s) {
        for (std::size_t i = 0; i < layers.size(); ++i) {
          const Buffer<float, B> g = to_device<B>(ctx, normal<float>(random, n * n));
          layers[i]->add_gradient(ctx, g.matrix(n, n));
          if (!together) group.select(ctx, static_cast<index_t>(i));
        }
        group.step(ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .grad_scale = 0.5});
      }
      Host<float> all;
      for (const Buffer<float, B>& w : weights) {
        const Host<float> part = to_host<B>(ctx, w.data(), w.size());
        all.insert(all.end(), part.begin(), part.end());
      }
      return all;
    };
    CHECK(train(true) == train(false));
  }
}

TEST_CASE("cores of many matrices that are made together are those that each source makes") {
  using B = DeviceBackend;
  constexpr index_t out = 9;
  constexpr index_t in = 5;
  std::mt19937_64 random(41);
  B::Context ctx;
  const auto full =
      TuckerBasis<double, B>::from_recipes(ctx, out, in, SideRecipe::random(), SideRecipe::random());
  const auto thin =
      TuckerBasis<double, B>::from_recipes(ctx, out, in, SideRecipe::random(3), SideRecipe::identity());
  constexpr auto first = SideOrder::project_first;
  constexpr auto last = SideOrder::multiply_first;
  for (const Plan plan : {Plan{last, last}, Plan{first, last}, Plan{last, first}, Plan{first, first}}) {
    CAPTURE(to_string(plan));
    // Seven with both sides full, two one-sided, one without a gradient, two whose dW is given, as it is and turned.
    std::vector<std::unique_ptr<CoreGradient<double, B>>> layers[2];
    std::vector<std::unique_ptr<GivenGradient<double, B>>> given[2];
    std::vector<CoreSource<double, B>*> sources[2];
    for (const int which : {0, 1}) {
      for (int i = 0; i < 10; ++i) {
        auto& own = layers[which].emplace_back(
            std::make_unique<CoreGradient<double, B>>(ctx, out, in, CoreGradientOptions{.plan = plan}));
        own->set_basis(ctx, i % 4 == 3 ? thin : full);
        sources[which].push_back(own.get());
      }
      for (int i = 0; i < 2; ++i) {
        auto& own = given[which].emplace_back(std::make_unique<GivenGradient<double, B>>(ctx, out, in));
        own->set_basis(ctx, full);
        sources[which].push_back(own.get());
      }
    }
    // Two at a time: cores of the third batch stand where the sums of the second stood.
    BatchedProjection<double, B> together(2 * out * in * static_cast<index_t>(sizeof(double)));
    together.reserve(ctx, sources[1]);
    const index_t spare = together.bytes();
    for (int round = 0; round < 2; ++round) {
      Buffer<double, B> dw[2];
      for (int i = 0; i < 10; ++i) {
        const Buffer<double, B> g = to_device<B>(ctx, normal<double>(random, out * in));
        for (auto& own : layers)
          if (i != 5) own[static_cast<std::size_t>(i)]->add(ctx, g.matrix(out, in));
        wait_for(ctx);
      }
      for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
        dw[i] = to_device<B>(ctx, normal<double>(random, out * in));
        for (auto& own : given) {
          const MatrixView<const double> view = dw[i].matrix(i == 0 ? out : in, i == 0 ? in : out);
          own[i]->set({view, i == 0 ? WeightLayout::out_in : WeightLayout::in_out});
        }
      }
      together.run(ctx, sources[1]);
      CHECK(together.bytes() == spare);
      std::vector<const double*> places;
      for (std::size_t i = 0; i < sources[0].size(); ++i) {
        CAPTURE(i);
        // One side's plan says nothing of the identity.
        const bool thin_one = i < 10 && i % 4 == 3;
        const bool taken = i >= 10 || (i != 5 && (plan.out == last || (!thin_one && plan.in == last)));
        CHECK(sources[1][i]->finished() == taken);
        const MatrixView<const double> expected = sources[0][i]->core(ctx);
        const MatrixView<const double> found = sources[1][i]->core(ctx);
        places.push_back(found.data);
        const Host<double> a = to_host<B>(ctx, expected.data, expected.size());
        const Host<double> b = to_host<B>(ctx, found.data, found.size());
        for (std::size_t e = 0; e < a.size(); ++e)
          CHECK(b[e] == doctest::Approx(a[e]).epsilon(1e-12));
      }
      std::sort(places.begin(), places.end());
      CHECK(std::unique(places.begin(), places.end()) == places.end());
      // Where one product is left, the third's core stands in the first's memory.
      layers[1][0]->clear();
      const Buffer<double, B> g = to_device<B>(ctx, normal<double>(random, out * in));
      if (plan == Plan{first, last} || plan == Plan{last, first}) {
        CHECK_THROWS_AS(layers[1][0]->add(ctx, g.matrix(out, in)), StateError);
        CHECK_THROWS_AS(layers[1][0]->set_basis(ctx, thin), StateError);
      } else {
        layers[1][0]->add(ctx, g.matrix(out, in));
      }
      for (auto& list : sources)
        for (CoreSource<double, B>* source : list)
          source->clear();
    }
  }
}

TEST_CASE("weights whose gradients are given step as layers do, none of which is copied") {
  for (const auto& [capacity, bases] :
       {std::pair<std::optional<double>, bool>(0, true), std::pair<std::optional<double>, bool>(1.5, true),
        std::pair<std::optional<double>, bool>(0, false)}) {
    ManyLayers layers(capacity, NonFinite::raise, Source::layers, bases);
    ManyLayers given(capacity, NonFinite::raise, Source::given, bases);
    CHECK(given.all_weights() == layers.all_weights());
    for (int s = 0; s < 5; ++s) {
      for (ManyLayers* m : {&layers, &given}) {
        m->gradients();
        const double scale = s == 3 ? clipped_scale(m->ctx, *m->group, 1, 1) : 1;
        const GroupReport report =
            m->group->step(m->ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .grad_scale = scale});
        CHECK(report.without_gradient == 0);
      }
      for (index_t i = 0; i < 6; ++i) {
        const auto& a = layers.group->gradient(i);
        const auto& b = given.group->gradient(i);
        REQUIRE(to_host<DeviceBackend>(layers.ctx, a.indices(), a.count()) ==
                to_host<DeviceBackend>(given.ctx, b.indices(), b.count()));
      }
    }
    const Host<double> expected = layers.all_weights();
    const Host<double> found = given.all_weights();
    for (std::size_t e = 0; e < found.size(); ++e)
      CHECK(found[e] == doctest::Approx(expected[e]).epsilon(1e-12));
  }
}

TEST_CASE("NaN in one of many layers with compact states: all stays as it was, or the step is skipped") {
  for (const NonFinite policy : {NonFinite::raise, NonFinite::skip}) {
    ManyLayers m(1.5, policy);
    const Host<double> before = m.all_weights();
    m.gradients(4);
    if (policy == NonFinite::raise) {
      CHECK_THROWS_AS(m.group->step(m.ctx, {.learning_rate = 1e-2}), NonFiniteError);
    } else {
      CHECK(m.group->step(m.ctx, {.learning_rate = 1e-2}).skipped);
    }
    CHECK(m.all_weights() == before);
    CHECK(m.group->optimizer(0).steps() == 0);
    m.group->clear(m.ctx);
    m.gradients();
    m.group->step(m.ctx, {.learning_rate = 1e-2});
    CHECK(m.all_weights() != before);
    CHECK(m.group->optimizer(0).steps() == 1);
  }
}

TEST_CASE("the dense state is the default, with which no step waits to learn of NaN") {
  ManyLayers m(std::nullopt, NonFinite::raise);
  for (index_t i = 0; i < m.group->size(); ++i)
    CHECK_FALSE(m.group->optimizer(i).compact());
  m.gradients(4);
  m.group->step(m.ctx, {.learning_rate = 1e-2});  // does not throw: the host has not looked
  wait_for(m.ctx);
  CHECK(m.ctx.step_flag().raised());
}

TEST_CASE("NaN in one of many layers, raise: the step and those after it change nothing, and check throws") {
  const GroupStep step{.learning_rate = 1e-2, .weight_decay = 0.1};
  Source source = Source::layers;
  bool bases = true;
  SUBCASE("layers") {}
  SUBCASE("given") {
    source = Source::given;
  }
  SUBCASE("layers without bases") {
    bases = false;
  }
  ManyLayers m(0, NonFinite::raise, source, bases);
  ManyLayers plain(0, NonFinite::raise, source, bases);
  for (ManyLayers* each : {&m, &plain}) {
    each->gradients();
    each->group->step(each->ctx, step);
    CHECK(each->group->check(each->ctx) == 0);
  }
  const Host<double> before = m.all_weights();
  const OptimizerState<double> state = m.group->optimizer(4).state(m.ctx);
  m.gradients(4);
  m.group->step(m.ctx, step);
  CHECK(m.all_weights() == before);
  // A later step finds it known, before it has begun; what it counted is put right.
  m.gradients();
  std::string text;
  try {
    m.group->step(m.ctx, step);
  } catch (const NonFiniteError& error) {
    text = error.what();
  }
  CHECK(text.find("layer or weight 4 of a group holds NaN or Inf") != std::string::npos);
  CHECK(m.all_weights() == before);
  const OptimizerState<double> after = m.group->optimizer(4).state(m.ctx);
  CHECK(after.array("m") == state.array("m"));
  CHECK(after.array("v") == state.array("v"));
  CHECK(after.steps == 1);
  m.group->clear(m.ctx);

  // From here on as if nothing had been.
  m.random = plain.random;
  for (ManyLayers* each : {&m, &plain}) {
    each->gradients();
    each->group->step(each->ctx, step);
    CHECK(each->group->check(each->ctx) == 0);
  }
  CHECK(m.all_weights() == plain.all_weights());
  CHECK(m.group->optimizer(0).steps() == 2);
}

TEST_CASE("a raised flag stops a captured or unchecked step until the host has taken note") {
  // The steps of a replayed graph run no code of the host: here the flag is hidden from `step`.
  ManyLayers m(0, NonFinite::raise);
  const Host<double> before = m.all_weights();
  m.gradients(2);
  m.group->step(m.ctx, {.learning_rate = 1e-2});
  wait_for(m.ctx);
  StepFlag& flag = m.ctx.step_flag();
  const std::uint32_t found = flag.layer;
  CHECK(found == 2);
  // The graph's next replay, as kernels: stopped by what the guard remembers and the flag that is still up.
  Buffer<std::uint32_t, DeviceBackend> words = to_device<DeviceBackend>(m.ctx, Host<std::uint32_t>{0, 1, 1});
  const StepGuard guard{words.data()};
  const Buffer<double, DeviceBackend> good = to_device<DeviceBackend>(m.ctx, Host<double>{1, 2});
  const MatrixView<const double> array = good.matrix(1, 2);
  const std::span<const MatrixView<const double>> arrays(&array, 1);
  DeviceBackend::guard_step<double>(m.ctx, arrays, 2.0, true, guard);
  CHECK(to_host<DeviceBackend>(m.ctx, words.data(), 3) == Host<std::uint32_t>{0, 1, 2});
  DeviceBackend::guard_step<double>(m.ctx, arrays, 2.0, false, guard);  // skip: step by step
  CHECK(to_host<DeviceBackend>(m.ctx, words.data(), 3) == Host<std::uint32_t>{0, 0, 2});
  DeviceBackend::guard_step<double>(m.ctx, arrays, 1.999, false, guard);  // 2 is too large
  CHECK(to_host<DeviceBackend>(m.ctx, words.data(), 3) == Host<std::uint32_t>{0, 1, 3});
  DeviceBackend::guard_step<double>(m.ctx, arrays, 2.0, false, guard);
  CHECK_THROWS_AS(m.ctx.check(), NonFiniteError);
  CHECK_NOTHROW(m.ctx.check());
  CHECK(m.group->check(m.ctx) == 1);
  CHECK(m.all_weights() == before);
}

TEST_CASE("NaN in one of many layers, that step alone is skipped and not counted") {
  const GroupStep step{.learning_rate = 1e-2, .weight_decay = 0.1};
  Source source = Source::layers;
  bool bases = true;
  SUBCASE("layers") {}
  SUBCASE("given") {
    source = Source::given;
  }
  SUBCASE("layers without bases") {
    bases = false;
  }
  for (const bool on_device : {false, true}) {
    ManyLayers m(0, NonFinite::skip, source, bases);
    ManyLayers plain(0, NonFinite::skip, source, bases);
    if (on_device) m.group->count_on_device(m.ctx);
    for (int s = 0; s < 4; ++s) {
      if (s == 1 || s == 2) {
        const Host<double> before = m.all_weights();
        m.gradients(s);
        m.group->step(m.ctx, step);
        CHECK(m.all_weights() == before);
        m.random = plain.random;
      }
      for (ManyLayers* each : {&m, &plain}) {
        each->gradients();
        each->group->step(each->ctx, step);
      }
      CHECK(m.all_weights() == plain.all_weights());
    }
    CHECK(m.group->check(m.ctx) == 2);
    CHECK(m.group->check(m.ctx) == 0);
    if (on_device) m.group->count_on_host(m.ctx);
    CHECK(m.group->optimizer(3).steps() == 4);
  }
}

TEST_CASE("entries that grad_scale takes beyond the type: that step changes nothing") {
  for (const NonFinite policy : {NonFinite::skip, NonFinite::raise}) {
    ManyLayers m(0, policy);
    const Host<double> before = m.all_weights();
    m.gradients();
    const auto step = [&] {
      m.group->step(m.ctx, {.learning_rate = 1e-2, .grad_scale = 1e308});  // of entries of about 1
      return m.group->check(m.ctx);
    };
    if (policy == NonFinite::skip) {
      CHECK(step() == 1);
    } else {
      CHECK_THROWS_AS(step(), NonFiniteError);
    }
    CHECK(m.all_weights() == before);
    m.gradients();
    m.group->step(m.ctx, {.learning_rate = 1e-2, .grad_scale = 100});
    CHECK(m.group->check(m.ctx) == 0);
    CHECK(m.all_weights() != before);
  }
}

TEST_CASE("small betas: a small gradient after a large one counts") {
  using B = DeviceBackend;
  B::Context ctx;
  for (const auto& [beta1, beta2] : {std::pair(0.0, 0.0), std::pair(0.9, 0.0), std::pair(0.0, 0.999)}) {
    SparseAdam<float, B> adam(ctx, 1, 4, {.beta1 = beta1, .beta2 = beta2});
    SparseGradient<float, B> s(ctx, 1, 4, 1), d(ctx, 1, 4, 1);
    double m = 0;
    double v = 0;
    int t = 0;
    for (const double g : {1e4, 0.5}) {
      s.assign(ctx, std::vector<stored_index_t>{2}, std::vector<float>{static_cast<float>(g)});
      adam.step(ctx, s, {.learning_rate = 1e-2}, d);
      m = beta1 * m + (1 - beta1) * g;
      v = beta2 * v + (1 - beta2) * g * g;
      ++t;
      const double rate = 1e-2 * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t));
      CHECK(to_host<B>(ctx, d.values(), 1)[0] == doctest::Approx(-rate * m / (std::sqrt(v) + 1e-8)));
    }
  }
}

TEST_CASE("steps counted in the backend's memory are the optimizers' steps") {
  ManyLayers host;
  ManyLayers device;
  for (int s = 0; s < 5; ++s) {
    if (s == 1) {
      device.group->count_on_device(device.ctx);
      CHECK_THROWS_AS(device.group->collect(device.ctx, {}), StateError);
      CHECK_THROWS_AS(device.group->set_basis(device.ctx, 0, nullptr), StateError);
    }
    if (s == 4) device.group->count_on_host(device.ctx);
    for (ManyLayers* m : {&host, &device}) {
      m->gradients();
      m->group->step(m->ctx, {.learning_rate = 1e-2});
    }
    if (s == 2)  // what the host's side says does not matter meanwhile
      for (index_t i = 0; i < 6; ++i)
        device.group->optimizer(i).set_steps(100);
  }
  CHECK(device.all_weights() == host.all_weights());
  CHECK(device.group->optimizer(5).steps() == 5);

  ManyLayers compact(1.5);
  ManyLayers given(0, NonFinite::raise, Source::given, false);  // dW itself is the core of most
  for (ManyLayers* m : {&compact, &given}) {
    m->group->count_on_device(m->ctx);
    m->gradients();
    const Host<double> before = m->all_weights();
    CHECK_THROWS_AS(m->group->step(m->ctx, {}), StateError);
    CHECK(m->all_weights() == before);
    CHECK(m->group->optimizer(0).steps() == 0);
  }
}

TEST_CASE("NaN in a gradient of a compact state: raise says where, and nothing has changed") {
  using B = DeviceBackend;
  B::Context ctx;
  Buffer<float, B> weight = to_device<B>(ctx, Host<float>(12, 1.0F));
  SparseGradLinear<float, B> layer(ctx, weight.matrix(3, 4), nullptr);
  GroupOptions options;
  options.entries = 5;
  options.capacity_factor = 1;
  SparseGradGroup<float, B> group(options);
  group.add(ctx, layer, "up");
  Host<float> gradient(12, 1.0F);
  gradient[7] = std::nanf("");
  const Buffer<float, B> g = to_device<B>(ctx, gradient);
  layer.add_gradient(ctx, g.matrix(3, 4));
  std::string text;
  try {
    group.step(ctx, {});
  } catch (const NonFiniteError& error) {
    text = error.what();
  }
  CHECK(text.find("row 1, column 3") != std::string::npos);
  CHECK(to_host<B>(ctx, weight.data(), 12) == Host<float>(12, 1.0F));
}

/// Delta, y and dX of an adapter after three steps in a group, merged at the end.
template <class B>
Host<double> train_adapter(bool owns_weight) {
  constexpr index_t out = 10;
  constexpr index_t in = 8;
  constexpr index_t tokens = 7;
  std::mt19937_64 random(19);
  typename B::Context ctx;
  backend::Reference::Context host(1);
  using HostSide = BasisSide<double, backend::Reference>;
  const auto basis = TuckerBasis<double, backend::Reference>::from_sides(HostSide::random(host, out, 4, 1),
                                                                         HostSide::random(host, in, in, 2));
  Buffer<double, B> weight = to_device<B>(ctx, normal<double>(random, out * in));
  const Buffer<double, B> bias = to_device<B>(ctx, normal<double>(random, out));
  const auto moved = basis->template to<B>(host, ctx);
  const auto adapter =
      owns_weight ? std::make_unique<CoreAdapter<double, B>>(ctx, weight.matrix(out, in), bias.data(), moved)
                  : std::make_unique<CoreAdapter<double, B>>(ctx, moved);
  GroupOptions options;
  options.entries = 12;
  SparseGradGroup<double, B> group(options);
  const index_t number = group.add_weight(ctx, adapter->delta(), "adapter");
  Buffer<double, B> y(ctx, tokens * out);
  Buffer<double, B> dx(ctx, tokens * in);
  for (int s = 0; s < 3; ++s) {
    const Buffer<double, B> x = to_device<B>(ctx, normal<double>(random, tokens * in));
    const Buffer<double, B> dy = to_device<B>(ctx, normal<double>(random, tokens * out));
    Buffer<double, B> db(ctx, out);
    const auto saved = adapter->forward(ctx, x.matrix(tokens, in), y.matrix(tokens, out));
    adapter->backward(ctx, dy.matrix(tokens, out), saved, dx.matrix(tokens, in), db.data(),
                      owns_weight ? InputGradient::overwrite : InputGradient::add);
    group.set_gradient(number, adapter->core(ctx));
    group.step(ctx, {.learning_rate = 1e-2});
    adapter->clear();
  }
  const MatrixView<const double> delta = adapter->delta();
  Host<double> all = to_host<B>(ctx, delta.data, delta.size());
  adapter->merge(ctx, weight.matrix(out, in));
  for (const Buffer<double, B>* b : {&y, &dx, &weight}) {
    const Host<double> part = to_host<B>(ctx, b->data(), b->size());
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

TEST_CASE("an adapter trained in a group equals the reference's") {
  for (const bool owns_weight : {true, false}) {
    const Host<double> found = train_adapter<DeviceBackend>(owns_weight);
    const Host<double> expected = train_adapter<backend::Reference>(owns_weight);
    REQUIRE(found.size() == expected.size());
    CHECK(std::count(expected.begin(), expected.begin() + 4 * 8, 0.0) < 20);  // Delta has learnt
    for (std::size_t e = 0; e < found.size(); ++e)
      CHECK(found[e] == doctest::Approx(expected[e]).epsilon(1e-11));
  }
}

TEST_CASE("unfold, fold, mode products and reconstruction of a stack") {
  using B = DeviceBackend;
  using R = backend::Reference;
  std::mt19937_64 random(3);
  const Host<double> x = normal<double>(random, 4 * 6 * 5);
  const auto sums = [&]<class D>(std::type_identity<D>) {
    typename D::Context ctx;
    const Buffer<double, D> stack = to_device<D>(ctx, x);
    const TensorView<const double> view(stack.data(), 4, 6, 5);
    Host<double> all;
    for (const Mode mode : {Mode::stack, Mode::out, Mode::in}) {
      const index_t rows = view.extent(mode);
      Buffer<double, D> unfolded(ctx, view.size());
      unfold<double, D>(ctx, view, mode, unfolded.matrix(rows, view.size() / rows));
      Buffer<double, D> folded(ctx, view.size());
      fold<double, D>(ctx, unfolded.matrix(rows, view.size() / rows), mode,
                      TensorView<double>(folded.data(), 4, 6, 5));
      for (const Buffer<double, D>* b : {&unfolded, &folded}) {
        const Host<double> part = to_host<D>(ctx, b->data(), b->size());
        all.insert(all.end(), part.begin(), part.end());
      }
      all.push_back(norm<double, D>(ctx, TensorView<const double>(folded.data(), 4, 6, 5)));
    }
    return all;
  };
  const Host<double> found = sums(std::type_identity<B>());
  const Host<double> expected = sums(std::type_identity<R>());
  REQUIRE(found.size() == expected.size());
  for (std::size_t e = 0; e < found.size(); ++e)
    CHECK(found[e] == doctest::Approx(expected[e]).epsilon(1e-12));
}

}  // namespace sparsegrad::test
