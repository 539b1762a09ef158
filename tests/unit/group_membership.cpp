// Who is in a group: what joins it, where weights lie, and what leaves it.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>
#include <sparsegrad/io/group_file.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

std::string output(const std::string& name) {
  return std::string(SPARSEGRAD_TEST_OUTPUT_DIR) + "/" + name;
}

/// Weights of add_weight [8, 6] beside gradients from a generator.
struct Engine {
  explicit Engine(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      weights.push_back(random.matrix(8, 6).data);
      gradients.push_back(std::vector<double>(48));
    }
  }
  MatrixView<double> weight(std::size_t i) { return {weights[i].data(), 8, 6}; }
  MatrixView<const double> gradient(std::size_t i) { return {gradients[i].data(), 8, 6}; }
  void backprop() {
    for (auto& g : gradients)
      for (double& x : g)
        x = random.next();
  }

  B::Context ctx;
  oracle::Random random{3};
  Weights weights;
  Weights gradients;
};

}  // namespace

TEST_CASE("a layer joins a group once, and two layers have no weight memory in common") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  CHECK(message_of([&] { group.add(model.ctx, *model.layers[1], "again"); }) ==
        "add: it is layer 1 ('up') of this group already");
  const auto in_common = [](const std::string& call, const std::string& layer) {
    return call + ": the weight has memory in common with that of " + layer +
           ", which a step would change twice; give a tied weight to the group once, with the sum of its "
           "gradients";
  };
  // The same matrix, and a part of it, as another layer or as a weight.
  Layer twin(model.ctx, model.layers[2]->weight(), nullptr);
  CHECK(message_of([&] { group.add(model.ctx, twin, "tied"); }) == in_common("add", "layer 2 ('down')"));
  CHECK(message_of([&] {
          group.add_weight(model.ctx, model.layers[0]->weight().block(7, 0, 1, 6), "part");
        }) == in_common("add_weight", "layer 0 ('up')"));
  CHECK(group.size() == 3);
  // Column blocks of one fused matrix have nothing in common.
  std::vector<double> fused(8 * 12);
  group.add_weight(model.ctx, MatrixView<double>(fused.data(), 8, 6, 12), "gate");
  group.add_weight(model.ctx, MatrixView<double>(fused.data() + 6, 8, 6, 12), "up");
  CHECK(group.size() == 5);
  CHECK_THROWS_AS(group.add_weight(model.ctx, MatrixView<double>(fused.data() + 3, 8, 6, 12), "?"),
                  ValueError);

  // A weight of 16 bits and its master.
  std::vector<float> master(12);
  const MatrixView<bfloat16> low(reinterpret_cast<bfloat16*>(master.data()), 3, 4);
  CHECK(
      message_of([&] {
        SparseGradLinear<bfloat16, B>(model.ctx, low, MatrixView<float>(master.data(), 3, 4), nullptr);
      }) ==
      "the weight overlaps its master in memory, expected memory of its own: it is written while its master "
      "is still to be read");
}

TEST_CASE("a group without layers has no step and no collection") {
  B::Context ctx;
  GroupOptions options = keeping(5);
  options.warmup_steps = 2;
  Group group(options);
  CHECK(message_of([&] { group.step(ctx, {}); }) == "step: the group is empty; call add or add_weight first");
  CHECK(message_of([&] { group.collect(ctx, {}); }) ==
        "collect: the group is empty; call add or add_weight first");
  CHECK(group.warming_up());  // the warm-up is not used up
  CHECK(group.squared_norm(ctx) == 0);
}

TEST_CASE("a weight that an engine has moved is trained at its new place") {
  Engine moved(2);
  Engine still(2);
  Group group(keeping(5));
  Group other(keeping(5));
  for (std::size_t i = 0; i < 2; ++i) {
    group.add_weight(moved.ctx, moved.weight(i), "up", {.gradient = moved.gradient(i)});
    other.add_weight(still.ctx, still.weight(i), "up", {.gradient = still.gradient(i)});
  }
  for (int step = 0; step < 6; ++step) {
    if (step == 3) {
      // All buffers go elsewhere; the old ones hold rubbish.
      Weights elsewhere = moved.weights;
      Weights gradients = moved.gradients;
      for (std::size_t i = 0; i < 2; ++i) {
        const auto n = static_cast<index_t>(i);
        CHECK(
            message_of([&] { group.rebind(n, MatrixView<double>(elsewhere[i].data(), 8, 6)); }) ==
            "weight " + std::to_string(i) +
                " ('up'): rebind: the gradient stands in memory that add_weight was given; give its place as "
                "well");
        group.rebind(n, MatrixView<double>(elsewhere[i].data(), 8, 6),
                     MatrixView<const double>(gradients[i].data(), 8, 6));
        std::fill(moved.weights[i].begin(), moved.weights[i].end(), 1e30);
        std::fill(moved.gradients[i].begin(), moved.gradients[i].end(), 1e30);
      }
      moved.weights.swap(elsewhere);
      moved.gradients.swap(gradients);
    }
    moved.backprop();
    still.backprop();
    const Weights before = moved.weights;
    group.step(moved.ctx, {});
    other.step(still.ctx, {});
    CHECK(moved.weights == still.weights);
    CHECK(moved.weights != before);
  }

  // Refusals, after which everything is as before.
  std::vector<double> memory(100);
  CHECK(message_of([&] { group.rebind(1, MatrixView<double>(memory.data(), 6, 8), moved.gradient(1)); }) ==
        "weight 1 ('up'): weight is 6x8, expected 8x6 (extents of the weight before)");
  CHECK(message_of([&] { group.rebind(1, moved.weight(0), moved.gradient(1)); }) ==
        "weight 1 ('up'): rebind: the weight has memory in common with that of weight 0 ('up'), which a step "
        "would change twice; give a tied weight to the group once, with the sum of its gradients");
  CHECK_THROWS_AS(group.rebind(2, moved.weight(0), moved.gradient(0)), ValueError);
  group.rebind(1, moved.weight(1), moved.gradient(1));  // to where it is
  group.step(moved.ctx, {});
  other.step(still.ctx, {});
  CHECK(moved.weights == still.weights);
}

TEST_CASE("a layer whose weight has moved is followed by its group") {
  Model model;
  Model still;
  Group group(keeping(5));
  Group other(keeping(5));
  model.add_to(group);
  still.add_to(other);
  std::vector<double> bias(8);
  for (int step = 0; step < 4; ++step) {
    if (step == 2) {
      std::vector<double> elsewhere = model.weights[0];
      CHECK(message_of([&] { group.rebind(0, MatrixView<double>(elsewhere.data(), 8, 6)); }) ==
            "rebind: layer 0 ('up') was added by `add`; call the layer's own rebind");
      CHECK_THROWS_AS(model.layers[0]->rebind(MatrixView<double>(elsewhere.data(), 6, 8), nullptr),
                      ShapeError);
      model.layers[0]->rebind(MatrixView<double>(elsewhere.data(), 8, 6), bias.data());
      CHECK(model.layers[0]->bias() == bias.data());
      std::fill(model.weights[0].begin(), model.weights[0].end(), 0.0);
      model.weights[0].swap(elsewhere);
    }
    model.add_gradients();
    still.add_gradients();
    group.step(model.ctx, {});
    other.step(still.ctx, {});
    CHECK(model.weights == still.weights);
  }
  // 16 bits with their master, an adapter's frozen weight (read alone, from a const pointer).
  std::vector<float> masters[2] = {std::vector<float>(48, 1.0F), std::vector<float>(48, 2.0F)};
  std::vector<bfloat16> low[2] = {std::vector<bfloat16>(48), std::vector<bfloat16>(48)};
  SparseGradLinear<bfloat16, B> layer(model.ctx, {low[0].data(), 8, 6}, {masters[0].data(), 8, 6}, nullptr);
  layer.rebind({low[1].data(), 8, 6}, {masters[1].data(), 8, 6}, nullptr);
  CHECK(layer.weight().data == low[1].data());
  CHECK(layer.master().data == masters[1].data());
  layer.round_master(model.ctx);
  CHECK(float(low[1][7]) == 2);
  const std::vector<double> frozen(48, 1.0), moved(48, 3.0);
  CoreAdapter<double, B> adapter(model.ctx, MatrixView<const double>(frozen.data(), 8, 6), nullptr,
                                 TuckerBasis<double, B>::identity(8, 6));
  adapter.rebind(MatrixView<const double>(moved.data(), 8, 6), nullptr);
  std::vector<double> x(6, 1.0), y(8);
  (void)adapter.forward(model.ctx, {x.data(), 1, 6}, {y.data(), 1, 8});
  CHECK(y[0] == 18);
}

TEST_CASE("a layer that leaves a group goes on alone, and the others step and are saved as before") {
  for (const bool share : {false, true}) {
    CAPTURE(share);
    Model model;
    Model two;
    GroupOptions options = keeping(5);
    options.share_gradient_memory = share;
    Group group(options);
    Group pair(options);
    model.add_to(group);
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}})
      pair.add(two.ctx, *two.layers[i], i == 2 ? "down" : "up");
    const auto step = [&](bool three) {
      for (std::size_t i = 0; i < 3; ++i) {
        const oracle::Matrix g = model.gradient(i);
        (void)two.gradient(i);
        if (three || i != 1) {
          model.add(i, g);
          if (share) group.select(model.ctx, three || i == 0 ? static_cast<index_t>(i) : 1);
        }
        if (i == 1) continue;
        two.add(i, g);
        if (share) pair.select(two.ctx, i == 0 ? 0 : 1);
      }
      group.step(model.ctx, {});
      pair.step(two.ctx, {});
      CHECK(model.weights[0] == two.weights[0]);
      CHECK(model.weights[2] == two.weights[2]);
    };
    step(true);
    model.add_gradient(1);
    CHECK_THROWS_AS(group.remove(model.ctx, 1), StateError);
    group.clear(model.ctx);
    CHECK_THROWS_AS(group.remove(model.ctx, 3), ValueError);
    group.remove(model.ctx, 1);
    CHECK(group.size() == 2);
    CHECK(group.kind(1) == "down");
    const std::vector<double> left = model.weights[1];
    step(false);
    CHECK(model.weights[1] == left);
    // The layer has memory of its own, and may join another group.
    const oracle::Matrix g = model.add_gradient(1);
    CHECK(model.layers[1]->core(model.ctx).data[3] == g.data[3]);
    model.layers[1]->clear();
    Group another(keeping(5));
    another.add(model.ctx, *model.layers[1], "up");

    // State and files are those of a group that never had it.
    const std::string path = output("left" + std::to_string(share) + ".safetensors");
    io::save(model.ctx, path, group);
    io::load(two.ctx, path, pair);
    step(false);
    // A new member takes the last number.
    CHECK(group.add(model.ctx, *model.layers[1], "late") == 2);
    group.remove(model.ctx, 2);
    group.remove(model.ctx, 0);
    group.remove(model.ctx, 0);
    CHECK(group.size() == 0);
  }
}

TEST_CASE("a layer leaves a group that warms up, but not one that has begun to collect") {
  Model model;
  GroupOptions options = keeping(5);
  options.warmup_steps = 2;
  Group group(options);
  model.add_to(group);
  CHECK(model.layers[0]->gradient().forms_weight_gradient());
  group.remove(model.ctx, 0);
  CHECK_FALSE(model.layers[0]->gradient().forms_weight_gradient());
  model.add_gradient(1);
  model.add_gradient(2);
  group.step(model.ctx, {});
  CHECK(contains(message_of([&] { group.remove(model.ctx, 0); }), "remove: gradients are being collected"));
  model.add_gradient(1);
  model.add_gradient(2);
  CHECK(group.step(model.ctx, {}).warming_up);
  group.remove(model.ctx, 0);
  CHECK(group.kind(0) == "down");
}

TEST_CASE("a saved state is for one number of kept entries, also where the optimizer is dense") {
  for (const double factor : {0.0, 4.0}) {
    GroupOptions options = keeping(5);
    options.capacity_factor = factor;
    Model model;
    Group group(options);
    model.add_to(group);
    model.add_gradients();
    group.step(model.ctx, {});
    const std::string path = output("kept.safetensors");
    io::save(model.ctx, path, group);
    options.entries = 6;
    Model other;
    Group denser(options);
    other.add_to(denser);
    const std::string message = message_of([&] { io::load(other.ctx, path, denser); });
    CHECK(message ==
          path +
              ": layer 0 ('up'): the saved state was made with 5 kept entries a step, expected 6: the "
              "density is another, or `entries`");
    // A state without the number, as files of before have none, is taken.
    auto state = group.state(model.ctx);
    for (auto& layer : state.layers)
      layer.kept = 0;
    if (factor == 0.0) CHECK_NOTHROW(denser.restore(other.ctx, state));
  }
}

TEST_CASE("updates of a weight that is kept elsewhere go to a function") {
  Model near;
  Group usual(keeping(5));
  near.add_to(usual);
  Model far;
  Group group(keeping(5));
  std::vector<std::unique_ptr<Layer>> layers;
  for (std::size_t i = 0; i < 3; ++i) {
    const index_t out = far.layers[i]->out_extent();
    const index_t in = far.layers[i]->in_extent();
    layers.push_back(std::make_unique<Layer>(far.ctx, out, in));
    CHECK(layers[i]->trained_weight().empty());
    MatrixView<double> weight(far.weights[i].data(), out, in);
    CHECK(message_of([&] { group.add(far.ctx, *layers[i], "x"); }) ==
          "add: the layer's weight is kept elsewhere, expected a function that takes its updates");
    group.add(far.ctx, *layers[i], i == 2 ? "down" : "up",
              [weight](B::Context& ctx, const auto& basis, const auto& d, double decay) {
                update_weight<double, B>(ctx, TrainedWeight<double>(weight, WeightLayout::out_in), *basis, d,
                                         decay);
              });
    CHECK(
        message_of([&] {
          group.add(far.ctx, *far.layers[i], "x", [](B::Context&, const auto&, const auto&, double) {});
        }) ==
        "add: a function for the updates was given, expected none: the layer has a weight, which takes them");
  }
  CHECK(group.size() == 3);
  const auto recipe =
      recipe_of(SideRecipe::hosvd(Truncation::full()), SideRecipe::hosvd(Truncation::rank(3)));
  usual.collect(near.ctx, recipe);
  group.collect(far.ctx, recipe);
  const auto gradients = [&] {
    for (std::size_t i = 0; i < 3; ++i) {
      const oracle::Matrix g = near.add_gradient(i);
      layers[i]->add_gradient(far.ctx, MatrixView<const double>(g.data.data(), g.rows, g.cols));
    }
  };
  gradients();
  usual.end_collecting_step(near.ctx);
  group.end_collecting_step(far.ctx);
  usual.refresh(near.ctx);
  group.refresh(far.ctx);
  for (int step = 0; step < 3; ++step) {
    gradients();
    usual.step(near.ctx, {.learning_rate = 0.1, .weight_decay = 0.1});
    group.step(far.ctx, {.learning_rate = 0.1, .weight_decay = 0.1});
  }
  CHECK(far.weights == near.weights);

  const std::vector<double> x(12);
  std::vector<double> y(16);
  const MatrixView<const double> tokens(x.data(), 2, 6);
  CHECK(message_of([&] {
          layers[0]->forward(far.ctx, tokens, {y.data(), 2, 8});
        }).starts_with("forward: the layer's weight is kept elsewhere"));
  const MatrixView<const double> dy(y.data(), 2, 8);
  std::vector<double> dx(12);
  CHECK(message_of([&] {
          layers[0]->backward(far.ctx, dy, {tokens}, {dx.data(), 2, 6}, nullptr);
        }).starts_with("backward: the layer's weight is kept elsewhere"));
  SparseGradient<double, B> d(far.ctx, 8, 3, 1);
  CHECK(message_of([&] { layers[0]->apply(far.ctx, d); }).starts_with("apply: the layer's weight"));
  layers[0]->backward(far.ctx, dy, {tokens}, {}, nullptr);  // the gradient alone
  CHECK(layers[0]->accumulating());
}
