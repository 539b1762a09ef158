#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "support/layer_oracle.hpp"

using namespace sparsegrad;

namespace {

using B = backend::Cpu;
using Layer = SparseGradLinear<double, B>;

/// Two "up" layers [8, 6] and one "down" layer [6, 8] with gradients from a generator.
struct Model {
  explicit Model(std::uint64_t seed = 1) : random(seed) {
    for (int i = 0; i < 3; ++i) {
      const int out = i == 2 ? 6 : 8;
      const int in = i == 2 ? 8 : 6;
      weights.push_back(random.matrix(out, in).data);
      layers.push_back(
          std::make_unique<Layer>(ctx, MatrixView<double>(weights.back().data(), out, in), nullptr));
    }
  }
  void add_to(SparseGradGroup<double, B>& group) {
    for (std::size_t i = 0; i < 3; ++i)
      group.add(ctx, *layers[i], i == 2 ? "down" : "up");
  }
  oracle::Matrix gradient(std::size_t i) {
    return random.matrix(static_cast<int>(layers[i]->out_extent()), static_cast<int>(layers[i]->in_extent()));
  }
  void add_gradients(double scale = 1) {
    for (std::size_t i = 0; i < 3; ++i)
      add_gradient(i, scale);
  }
  void add_gradient(std::size_t i, double scale = 1) {
    oracle::Matrix g = gradient(i);
    for (double& x : g.data)
      x *= scale;
    layers[i]->add_gradient(ctx, MatrixView<const double>(g.data.data(), g.rows, g.cols));
  }

  B::Context ctx{1};
  oracle::Random random;
  std::vector<std::vector<double>> weights;
  std::vector<std::unique_ptr<Layer>> layers;
};

/// The same model and group twice: with gradient memory of each layer's own, and with one memory for all layers.
struct OwnAndShared {
  explicit OwnAndShared(GroupOptions options) : group(options), sharing(shares(options)) {
    model.add_to(group);
    shared.add_to(sharing);
  }
  void step() {
    model.add_gradients();
    group.step(model.ctx, {});
    for (std::size_t i = 0; i < 3; ++i) {
      shared.add_gradient(i);
      sharing.select(shared.ctx, static_cast<index_t>(i));
    }
    sharing.step(shared.ctx, {});
  }

  Model model;
  Model shared;
  SparseGradGroup<double, B> group;
  SparseGradGroup<double, B> sharing;

 private:
  static GroupOptions shares(GroupOptions options) {
    options.share_gradient_memory = true;
    return options;
  }
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

double difference(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t e = 0; e < a[i].size(); ++e)
      worst = std::max(worst, std::abs(a[i][e] - b[i][e]));
  return worst;
}

}  // namespace

TEST_CASE("a step is the steps of its layers") {
  Model model;
  Model alone;
  GroupOptions options;
  options.entries = 5;
  SparseGradGroup<double, B> group(options);
  model.add_to(group);
  std::vector<SparseAdam<double, B>> adams;
  std::vector<SparseGradient<double, B>> kept;
  for (const auto& layer : alone.layers) {
    adams.emplace_back(alone.ctx, layer->out_extent(), layer->in_extent());
    kept.emplace_back(alone.ctx, layer->out_extent(), layer->in_extent(), 5);
  }
  for (int step = 0; step < 6; ++step) {
    model.add_gradients();
    const GroupReport report =
        group.step(model.ctx, {.learning_rate = 0.1, .weight_decay = 0.3, .grad_scale = 0.5});
    CHECK(report.kept == 15);
    alone.add_gradients();
    for (std::size_t i = 0; i < 3; ++i) {
      SparseGradient<double, B> d(alone.ctx, kept[i].rows(), kept[i].cols(), 5);
      alone.layers[i]->select(alone.ctx, TopK{5}, kept[i]);
      adams[i].step(alone.ctx, kept[i], {.learning_rate = 0.1, .grad_scale = 0.5}, d);
      alone.layers[i]->apply(alone.ctx, d, 0.1 * 0.3);
      alone.layers[i]->clear(alone.ctx);
    }
  }
  CHECK(model.weights == alone.weights);
}

TEST_CASE("a step that cannot be taken by one layer is taken by none") {
  Model model;
  GroupOptions options;
  options.entries = 4;
  options.optimizer.overflow = Overflow::error;
  options.capacity_factor = 1.5;
  SparseGradGroup<double, B> group(options);
  model.add_to(group);
  model.add_gradients();
  group.step(model.ctx, {});
  const auto before = model.weights;

  model.add_gradient(0);
  model.add_gradient(1);
  std::vector<double> bad(48, 0.0);
  bad[7] = std::numeric_limits<double>::infinity();
  model.layers[2]->add_gradient(model.ctx, MatrixView<const double>(bad.data(), 6, 8));
  CHECK(message_of([&] { group.step(model.ctx, {}); }) ==
        "layer 2 ('down'): the core gradient of 6x8 holds Inf at row 0, column 7; expected finite numbers");
  CHECK(model.weights == before);
  for (index_t i = 0; i < 3; ++i)
    CHECK(group.optimizer(i).steps() == 1);
  CHECK(model.layers[0]->accumulating());
  group.clear(model.ctx);
  CHECK(!model.layers[0]->accumulating());

  // Some layer's compact state of 6 entries has no room for 4 new ones after a few supports.
  std::string message = "nothing was thrown";
  for (int step = 0; step < 20 && message == "nothing was thrown"; ++step) {
    const auto weights = model.weights;
    const std::int64_t steps = group.optimizer(0).steps();
    model.add_gradients();
    message = message_of([&] { group.step(model.ctx, {}); });
    if (message != "nothing was thrown") {
      CHECK(model.weights == weights);
      for (index_t i = 0; i < 3; ++i)
        CHECK(group.optimizer(i).steps() == steps);
    }
  }
  CHECK(message.find("capacity") != std::string::npos);

  group.clear(model.ctx);
  CHECK(message_of([&] { group.step(model.ctx, {.learning_rate = -1}); }) ==
        "learning_rate is -1, expected 0 <= learning_rate <= 1.7976931348623157e+308");
  CHECK(message_of([&] { group.step(model.ctx, {.learning_rate = 1, .weight_decay = 2}); }) ==
        "learning_rate * weight_decay is 2, expected it in [0, 1]");
}

TEST_CASE("NaN under skip leaves the step out") {
  Model model;
  GroupOptions options;
  options.non_finite = NonFinite::skip;
  SparseGradGroup<double, B> group(options);
  model.add_to(group);
  const auto before = model.weights;
  model.add_gradient(0);
  std::vector<double> bad(48, 1.0);
  bad[3] = std::nan("");
  model.layers[1]->add_gradient(model.ctx, MatrixView<const double>(bad.data(), 8, 6));
  model.add_gradient(2);
  const GroupReport report = group.step(model.ctx, {});
  CHECK(report.skipped);
  CHECK(report.kept == 0);
  CHECK(model.weights == before);
  CHECK(group.optimizer(0).steps() == 0);
  model.add_gradients();
  CHECK(!group.step(model.ctx, {}).skipped);
  CHECK(model.weights != before);
}

TEST_CASE("clipping scales by the norm of all cores") {
  Model model;
  Model scaled;
  GroupOptions options;
  options.entries = 6;
  SparseGradGroup<double, B> group(options);
  SparseGradGroup<double, B> other(options);
  model.add_to(group);
  scaled.add_to(other);
  model.add_gradients(10);
  double squares = 0;
  for (auto& layer : model.layers)
    squares += B::squared_norm<double>(model.ctx, layer->core(model.ctx));
  const double found = group.squared_norm(model.ctx);
  CHECK(found == doctest::Approx(squares));
  CHECK(group.squared_norm(model.ctx) == found);  // and no gradient is counted twice
  const double norm = 0.25 * std::sqrt(found);
  CHECK(norm > 1);
  group.step(model.ctx, {.grad_scale = 0.25 * std::min(1.0, 1 / norm)});
  scaled.add_gradients(10);
  other.step(scaled.ctx, {.grad_scale = 0.25 / norm});
  CHECK(difference(model.weights, scaled.weights) < 1e-14);
  // The norm of a step that is given up is not the next one's.
  model.add_gradients(10);
  const double given_up = group.squared_norm(model.ctx);
  group.clear(model.ctx);
  model.add_gradients(2);
  CHECK(group.squared_norm(model.ctx) < 0.5 * given_up);
}

TEST_CASE("collection and refresh: by kind all layers of a kind share a basis, by layer none do") {
  for (const BasisScope scope : {BasisScope::kind, BasisScope::layer}) {
    Model model;
    SparseGradGroup<double, B> group(GroupOptions{.density = 0.2});
    model.add_to(group);
    BasisRecipe recipe;
    recipe.scope = scope;
    recipe.sides = [](const std::string& kind) {
      return kind == "up" ? SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(3)}
                          : SideRecipes{SideRecipe::hosvd(2), SideRecipe::hadamard()};
    };
    group.collect(model.ctx, recipe);
    CHECK(group.memory(model.ctx).collection > 0);
    for (int step = 0; step < 4; ++step) {
      model.add_gradients();
      group.end_collecting_step(model.ctx);
    }
    group.refresh(model.ctx);
    CHECK(!group.collecting());
    CHECK((model.layers[0]->basis() == model.layers[1]->basis()) == (scope == BasisScope::kind));
    CHECK(model.layers[0]->basis()->rows() == 8);
    CHECK(model.layers[0]->basis()->cols() == 3);
    CHECK(model.layers[2]->basis()->rows() == 2);
    CHECK(group.gradient(0).rows() == 8);
    CHECK(group.kept(0) == 10);  // ceil(0.2 * 8 * 6), as before the truncation
    model.add_gradients();
    CHECK(group.step(model.ctx, {}).kept == 30);
    // Moments in the new basis.
    CHECK(group.optimizer(0).cols() == 3);
    group.collect(model.ctx, recipe);
    model.add_gradients();
    group.step(model.ctx, {});  // a collecting step may train, too
    group.refresh(model.ctx, MomentsPolicy::transport);
    CHECK(group.optimizer(0).steps() == 2);
    group.collect(model.ctx, recipe);
    model.add_gradients();
    group.end_collecting_step(model.ctx);
    group.refresh(model.ctx, MomentsPolicy::reset);
    CHECK(group.optimizer(0).steps() == 0);
  }

  Model model;
  SparseGradGroup<double, B> group;
  CHECK(message_of([&] { group.refresh(model.ctx); }) ==
        "refresh: nothing was collected; call collect first");
  for (auto& layer : model.layers)
    group.add(model.ctx, *layer, "mlp");
  CHECK(
      message_of([&] { group.collect(model.ctx, {}); }) ==
      "a weight of kind 'mlp' is 6x8, another 8x6; weights of one kind share a basis and must have the same "
      "extents");
  CHECK(!group.collecting());
  CHECK(message_of([] { SparseGradGroup<double, B>(GroupOptions{.density = 0}); }) ==
        "density is 0, expected 0 < density <= 1");
}

TEST_CASE("a basis by kind is that of all its layers' gradients") {
  Model model;
  SparseGradGroup<double, B> group;
  model.add_to(group);
  group.collect(model.ctx, {});
  HosvdAccumulator<double, B> sums(model.ctx, 8, 6);
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < 3; ++i) {
      const oracle::Matrix g = model.gradient(i);
      const MatrixView<const double> view(g.data.data(), g.rows, g.cols);
      model.layers[i]->add_gradient(model.ctx, view);
      if (i < 2) sums.add(model.ctx, view);
    }
    group.end_collecting_step(model.ctx);
  }
  group.refresh(model.ctx);
  const auto expected =
      TuckerBasis<double, B>::fit(model.ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd());
  const auto& basis = model.layers[0]->basis();
  for (index_t e = 0; e < 64; ++e) {
    CHECK(std::abs(basis->out().factor().data[e] - expected->out().factor().data[e]) < 1e-9);
  }
  CHECK(basis->report().out.spectrum == expected->report().out.spectrum);
}

TEST_CASE("one gradient memory for all layers gives the same steps") {
  GroupOptions options;
  options.entries = 5;
  OwnAndShared both(options);
  auto& [model, shared, group, sharing] = both;
  BasisRecipe recipe;
  recipe.sides = [](const std::string&) { return SideRecipes{SideRecipe::random(), SideRecipe::hadamard()}; };
  group.collect(model.ctx, recipe);
  group.refresh(model.ctx);
  sharing.collect(shared.ctx, recipe);
  sharing.refresh(shared.ctx);
  for (int step = 0; step < 3; ++step)
    both.step();
  CHECK(model.weights == shared.weights);
  CHECK(sharing.memory(shared.ctx).gradients == 48 * 8);
  CHECK(group.memory(model.ctx).gradients == 3 * 48 * 8);
}

TEST_CASE("shared gradient memory holds whole gradients while they are collected, cores otherwise") {
  GroupOptions options;
  options.density = 1;
  OwnAndShared both(options);
  auto& [model, shared, group, sharing] = both;
  BasisRecipe recipe;
  recipe.sides = [](const std::string&) { return SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(1)}; };
  for (int turn = 0; turn < 2; ++turn) {
    group.collect(model.ctx, recipe);
    sharing.collect(shared.ctx, recipe);
    CHECK(sharing.memory(shared.ctx).gradients == 48 * 8);
    model.add_gradients();
    group.end_collecting_step(model.ctx);
    for (std::size_t i = 0; i < 3; ++i) {
      shared.add_gradient(i);
      sharing.end_collecting_step(shared.ctx, static_cast<index_t>(i));
    }
    sharing.end_collecting_step(shared.ctx);
    group.refresh(model.ctx);
    sharing.refresh(shared.ctx);
    index_t most = 0;
    for (const auto& layer : shared.layers)
      most = std::max(most, layer->gradient().element_count());
    CHECK(most < 48);
    CHECK(sharing.memory(shared.ctx).gradients == most * 8);
    for (int step = 0; step < 3; ++step)
      both.step();
  }
  CHECK(model.weights == shared.weights);
}

TEST_CASE("a selector of the caller's own decides what a step changes, a null one is top-k again") {
  Model model;
  Model plain;
  GroupOptions options;
  options.entries = 3;
  SparseGradGroup<double, B> group(options);
  SparseGradGroup<double, B> usual(options);
  model.add_to(group);
  plain.add_to(usual);
  group.use_selector([](B::Context&, MatrixView<const double> core, SparseGradient<double, B>& s) {
    s.set_count(2);  // the first and the last entry, whatever their values
    s.indices()[0] = 0;
    s.indices()[1] = static_cast<stored_index_t>(core.size() - 1);
    s.values()[0] = core.data[0];
    s.values()[1] = core.data[core.size() - 1];
    return SelectReport{2, 2, false, false};
  });
  const std::vector<std::vector<double>> before = model.weights;
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 6);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t e = 0; e < before[i].size(); ++e) {
      const bool chosen = e == 0 || e + 1 == before[i].size();
      CHECK((model.weights[i][e] != before[i][e]) == chosen);
    }
  }

  Model again;
  SparseGradGroup<double, B> back(options);
  again.add_to(back);
  back.use_selector([](B::Context&, MatrixView<const double>, SparseGradient<double, B>& s) {
    s.set_count(0);
    return SelectReport{0, 0, false, true};
  });
  again.add_gradients();
  CHECK(back.step(again.ctx, {}).skipped);
  CHECK(again.weights == before);
  back.use_selector(nullptr);
  plain.add_gradients();
  again.random = Model().random;  // the gradients of plain once more
  again.add_gradients();
  CHECK(usual.step(plain.ctx, {}).kept == 9);
  CHECK(back.step(again.ctx, {}).kept == 9);
  CHECK(again.weights == plain.weights);
}

TEST_CASE("a first collection needs no optimizer's memory, and a step in it gets one") {
  Model model;
  GroupOptions options;
  options.entries = 5;
  options.capacity_factor = 0;
  SparseGradGroup<double, B> group(options);
  model.add_to(group);
  const index_t state = group.memory(model.ctx).optimizer;
  CHECK(state == 3 * 48 * 2 * 8);
  group.collect(model.ctx, {});
  CHECK(group.memory(model.ctx).optimizer == 0);
  CHECK(group.memory(model.ctx).sparse_gradients == 0);
  CHECK(group.kept(0) == 5);
  CHECK(message_of([&] { group.optimizer(0); }).find("refresh") != std::string::npos);
  model.add_gradients();
  group.end_collecting_step(model.ctx);

  group.stop_collecting(model.ctx);
  CHECK_FALSE(group.collecting());
  CHECK(group.memory(model.ctx).collection == 0);
  CHECK(group.memory(model.ctx).optimizer == state);
  CHECK(group.optimizer(0).steps() == 0);
  CHECK_THROWS_AS(group.refresh(model.ctx), StateError);

  group.collect(model.ctx, {});
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  const std::vector<std::vector<double>> before = model.weights;
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 15);
  CHECK(model.weights != before);
  CHECK(group.memory(model.ctx).optimizer == state);
  CHECK(group.optimizer(0).steps() == 1);
  group.refresh(model.ctx, MomentsPolicy::transport);
  CHECK(group.optimizer(0).steps() == 1);
  group.collect(model.ctx, {});
  CHECK(group.memory(model.ctx).optimizer == state);  // moments are not forgotten
}
