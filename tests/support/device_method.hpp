// The whole method on a backend whose memory is not the host's, against backend::Reference: a file that includes this
// names the backend first, as `DeviceBackend`, with a Context that is made without arguments.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <sparsegrad/backend/reference.hpp>
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

/// Two layers [12, 8]: three collecting steps, the fit, four steps, a refresh with transported moments, two steps.
template <class B, class T>
MethodResult<T> run_method(const MethodCase& c) {
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
  SparseGradGroup<T, B> group(options);
  for (int i = 0; i < 2; ++i) {
    weights.push_back(to_device<B>(ctx, normal<T>(random, out * in)));
    biases.push_back(to_device<B>(ctx, normal<T>(random, out)));
  }
  for (std::size_t i = 0; i < 2; ++i) {
    LinearOptions linear;
    linear.layout = c.layout;
    layers.push_back(std::make_unique<SparseGradLinear<T, B>>(
        ctx, weights[i].matrix(out_in ? out : in, out_in ? in : out), biases[i].data(), linear));
    group.add(ctx, *layers[i], "up");
  }
  BasisRecipe recipe;
  recipe.scope = c.scope;
  recipe.rules = [&](const std::string&) { return SideRecipes{c.out, c.in}; };

  MethodResult<T> result;
  const auto pass = [&] {
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
    group.collect(ctx, recipe);
    for (int s = 0; s < steps; ++s) {
      pass();
      group.end_collecting_step(ctx);
    }
    group.refresh(ctx, moments);
  };
  const auto train = [&](int steps) {
    for (int s = 0; s < steps; ++s) {
      pass();
      pass();  // gradients of two micro-batches add up
      group.step(ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .grad_scale = 0.5, .clip_norm = 1.0});
    }
  };
  collect(3, MomentsPolicy::reset);
  train(4);
  collect(1, MomentsPolicy::transport);
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
  add({.name = "dense state, no basis",
       .out = SideRecipe::identity(),
       .in = SideRecipe::identity(),
       .capacity_factor = 0});
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
  for (const MethodCase& c : method_cases()) {
    CAPTURE(std::string(c.name));
    const MethodResult<double> expected = run_method<backend::Reference, double>(c);
    const MethodResult<double> found = run_method<DeviceBackend, double>(c);
    CHECK(found.supports == expected.supports);
    const auto near = [](const std::vector<Host<double>>& a, const std::vector<Host<double>>& b) {
      double worst = 0;
      for (std::size_t i = 0; i < a.size(); ++i)
        for (std::size_t e = 0; e < a[i].size(); ++e)
          worst = std::max(worst, std::abs(a[i][e] - b[i][e]));
      return worst;
    };
    CHECK(near(found.weights, expected.weights) < 1e-9);
    CHECK(near(found.outputs, expected.outputs) < 1e-8);
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

/// Layers of two kinds, all of whose step can be taken together.
struct ManyLayers {
  using B = DeviceBackend;

  explicit ManyLayers(std::optional<double> capacity_factor = 0, NonFinite non_finite = NonFinite::raise)
      : random(11) {
    GroupOptions options;
    options.density = 0.2;
    options.capacity_factor = capacity_factor;
    options.non_finite = non_finite;
    group = std::make_unique<SparseGradGroup<double, B>>(options);
    for (int i = 0; i < 6; ++i) {
      const index_t out = i % 2 == 0 ? 9 : 5;
      const index_t in = 14 - out;
      weights.push_back(to_device<B>(ctx, normal<double>(random, out * in)));
      layers.push_back(
          std::make_unique<SparseGradLinear<double, B>>(ctx, weights.back().matrix(out, in), nullptr));
    }
    for (std::size_t i = 0; i < layers.size(); ++i)
      group->add(ctx, *layers[i], i % 2 == 0 ? "up" : "down");
    BasisRecipe recipe;
    recipe.rules = [](const std::string& kind) {
      if (kind == "up") return SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(3)};
      return SideRecipes{};
    };
    group->collect(ctx, recipe);
    gradients();
    group->end_collecting_step(ctx);
    group->refresh(ctx);
  }
  void gradients(index_t poisoned = -1) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const index_t out = layers[i]->out_extent();
      const index_t in = layers[i]->in_extent();
      Host<double> g = normal<double>(random, out * in);
      if (static_cast<index_t>(i) == poisoned) g[8] = std::nan("");
      const Buffer<double, B> dw = to_device<B>(ctx, g);
      layers[i]->add_gradient(ctx, dw.matrix(out, in));
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
  std::vector<Buffer<double, B>> weights;
  std::vector<std::unique_ptr<SparseGradLinear<double, B>>> layers;
  std::unique_ptr<SparseGradGroup<double, B>> group;
};

TEST_CASE("layers that step together do what they do one after the other") {
  // A selection of the caller's own is made layer by layer; eviction's compact state steps by itself.
  ManyLayers together;
  ManyLayers apart(1.5);
  apart.group->use_selector([](DeviceBackend::Context& ctx, MatrixView<double> core,
                               SparseGradient<double, DeviceBackend>& s,
                               NonFinite policy) { return TopK{s.capacity()}(ctx, core, s, policy); });
  for (int s = 0; s < 5; ++s) {
    for (ManyLayers* m : {&together, &apart}) {
      m->gradients();
      m->group->step(m->ctx, {.learning_rate = 1e-2, .weight_decay = 0.1, .clip_norm = s == 3 ? 1.0 : 0.0});
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
  ManyLayers m(0, NonFinite::raise);
  ManyLayers plain(0, NonFinite::raise);
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
  CHECK(text.find("layer 4 of a group holds NaN or Inf") != std::string::npos);
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
  DeviceBackend::guard_step<double>(m.ctx, arrays, true, guard);
  CHECK(to_host<DeviceBackend>(m.ctx, words.data(), 3) == Host<std::uint32_t>{0, 1, 2});
  DeviceBackend::guard_step<double>(m.ctx, arrays, false, guard);  // skip: step by step
  CHECK(to_host<DeviceBackend>(m.ctx, words.data(), 3) == Host<std::uint32_t>{0, 0, 2});
  CHECK_THROWS_AS(m.ctx.check(), NonFiniteError);
  CHECK_NOTHROW(m.ctx.check());
  CHECK(m.group->check(m.ctx) == 1);
  CHECK(m.all_weights() == before);
}

TEST_CASE("NaN in one of many layers, that step alone is skipped and not counted") {
  const GroupStep step{.learning_rate = 1e-2, .weight_decay = 0.1};
  for (const bool on_device : {false, true}) {
    ManyLayers m(0, NonFinite::skip);
    ManyLayers plain(0, NonFinite::skip);
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
  compact.group->count_on_device(compact.ctx);
  compact.gradients();
  const Host<double> before = compact.all_weights();
  CHECK_THROWS_AS(compact.group->step(compact.ctx, {}), StateError);
  CHECK(compact.all_weights() == before);
  CHECK(compact.group->optimizer(0).steps() == 0);
}

TEST_CASE("NaN in a gradient: raise says where, and nothing has changed") {
  using B = DeviceBackend;
  B::Context ctx;
  Buffer<float, B> weight = to_device<B>(ctx, Host<float>(12, 1.0F));
  SparseGradLinear<float, B> layer(ctx, weight.matrix(3, 4), nullptr);
  GroupOptions options;
  options.entries = 5;
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
