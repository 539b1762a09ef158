#include <sparsegrad/io/group_file.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <sparsegrad/extras/error_feedback.hpp>
#include <sparsegrad/extras/fixed_support.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

using Feedback = ErrorFeedback<double, B>;

struct Case {
  const char* name;
  GroupOptions options = keeping(7);
  LinearOptions linear = {};
  bool feedback = false;
  bool support = false;
};

struct Run {
  explicit Run(const Case& c) : model(c.linear), group(c.options) {
    model.add_to(group);
    if (c.feedback) group.use_selector(model.ctx, 1, std::make_shared<Feedback>());
  }
  void refresh(MomentsPolicy moments, index_t rank) {
    group.collect(model.ctx, recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd(rank)));
    model.add_gradients();
    group.end_collecting_step(model.ctx);
    group.refresh(model.ctx, moments);
  }
  void train(int steps) {
    for (int s = 0; s < steps; ++s) {
      model.add_gradients();
      group.step(model.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
    }
  }
  /// Gives every layer a support in a basis of these ranks.
  void fix_supports(const std::vector<stored_index_t>& at) {
    for (index_t i = 0; i < 3; ++i) {
      const index_t rows = i == 2 ? 6 : 8;
      SparseGradient<double, B> support(model.ctx, rows, 4, static_cast<index_t>(at.size()));
      support.assign(model.ctx, at, std::vector<double>(at.size()));
      group.use_selector(model.ctx, i, FixedSupport<double, B>(model.ctx, support));
    }
  }
  Weights result() const { return model.weights; }

  Model model;
  Group group;
};

std::vector<Case> cases() {
  std::vector<Case> all{{"compact states"}};
  const auto with = [](auto change) {
    GroupOptions options = keeping(7);
    change(options);
    return options;
  };
  all.push_back({"dense states", with([](auto& o) { o.capacity_factor = 0; })});
  all.push_back({"eviction", with([](auto& o) {
                   o.capacity_factor = 1.5;
                   o.optimizer.overflow = Overflow::evict_smallest;
                   o.optimizer.semantics = AdamSemantics::per_entry_step;
                 })});
  all.push_back({"dense_core", with([](auto& o) {
                   o.capacity_factor = 1;
                   o.optimizer.semantics = AdamSemantics::dense_core;
                 })});
  all.push_back({"another workload", keeping(7), {.workload = {1, 1}}});
  all.push_back({"error feedback", keeping(7), {}, true});
  all.push_back({"fixed supports", keeping(7), {}, false, true});
  return all;
}

/// Trains `first`, saves it, and gives `second` its weights.
io::SafetensorsFile saved(Run& first, Run& second, const Case& c) {
  first.refresh(MomentsPolicy::reset, 4);
  if (c.support) {
    first.fix_supports({1, 5, 11});
    second.fix_supports({0, 2});  // another one, which the saved one replaces
  }
  first.train(4);
  io::SafetensorsWriter writer;
  io::put(first.model.ctx, writer, "group.", first.group);
  for (std::size_t i = 0; i < 3; ++i)
    std::copy(first.model.weights[i].begin(), first.model.weights[i].end(), second.model.weights[i].begin());
  second.model.random = first.model.random;
  return io::SafetensorsFile(io::FileBytes::from(writer.bytes()), "f");
}

}  // namespace

TEST_CASE("group files: a group that was restored goes on bit by bit, over a refresh") {
  for (const Case& c : cases()) {
    CAPTURE(std::string(c.name));
    Run first(c);
    Run second(c);
    const io::SafetensorsFile file = saved(first, second, c);
    io::get(second.model.ctx, file, "group.", second.group);
    // One basis for both layers of a kind, once in the file.
    CHECK(second.model.layers[0]->basis() == second.model.layers[1]->basis());
    CHECK(file.contains("group.basis.1.out.factor"));
    CHECK_FALSE(file.contains("group.basis.2.out.factor"));
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(second.model.layers[i]->plan() == first.model.layers[i]->plan());
      CHECK(file.contains("group.layer." + std::to_string(i) + ".support") == c.support);
    }
    first.train(3);
    second.train(3);
    CHECK(first.result() == second.result());
    if (c.support) CHECK(first.group.gradient(0).count() == 3);
    for (Run* run : {&first, &second}) {
      for (index_t i = 0; i < 3 && c.support; ++i)
        run->group.use_selector(run->model.ctx, i, nullptr);
      run->refresh(MomentsPolicy::transport, 3);
      run->train(3);
    }
    CHECK(first.result() == second.result());
  }
}

TEST_CASE("group files: a plan that was chosen is restored, and chosen anew for the next basis") {
  const Case c{"", keeping(7), {.workload = {1, 1}}};
  Run first(c);
  Run second(c);
  first.model.layers[0]->set_plan(first.model.ctx, {}, {1, 1});
  const io::SafetensorsFile file = saved(first, second, c);
  const Plan plan = first.model.layers[0]->plan();
  CHECK(plan.in == SideOrder::project_first);
  second.model.layers[0]->set_plan(second.model.ctx, {}, {100000, 1});  // its own choice is another
  io::get(second.model.ctx, file, "group.", second.group);
  CHECK(second.model.layers[0]->plan() == plan);
  second.refresh(MomentsPolicy::reset, 6);
  CHECK(second.model.layers[0]->plan().in == SideOrder::multiply_first);
}

TEST_CASE("group files: what does not fit is refused, and the group stays as it was") {
  const Case c{"", keeping(7)};
  Run first(c);
  Run second(c);
  const io::SafetensorsFile file = saved(first, second, c);
  second.refresh(MomentsPolicy::reset, 5);
  second.train(2);
  const auto text = [&](Group& group, const io::SafetensorsFile& from) {
    return message_of([&] { io::get(second.model.ctx, from, "group.", group); });
  };
  const auto state = second.group.state(second.model.ctx);
  const auto unchanged = [&] {
    const auto now = second.group.state(second.model.ctx);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(now.layers[i].basis == state.layers[i].basis);
      CHECK(now.layers[i].optimizer.array("m") == state.layers[i].optimizer.array("m"));
      CHECK(now.layers[i].optimizer.steps == 2);
    }
  };

  // The last layer's optimizer state has other options: the first layers must not have changed.
  auto bad = io::get_group_state<double, B>(second.model.ctx, file, "group.");
  bad.layers[2].optimizer.number("beta1") = 0.5;
  CHECK(contains(message_of([&] { second.group.restore(second.model.ctx, bad); }),
                 "layer 2 ('down'): the saved state was made with beta1 0.5"));
  unchanged();
  bad = io::get_group_state<double, B>(second.model.ctx, file, "group.");
  bad.layers[2].kind = "up";
  CHECK(message_of([&] { second.group.restore(second.model.ctx, bad); }) ==
        "layer 2 ('down'): the saved kind is 'up', expected 'down'");
  bad.layers[2].kind = "down";
  bad.layers[2].selector.values.resize(3);
  CHECK(contains(message_of([&] { second.group.restore(second.model.ctx, bad); }), "use_selector"));
  bad.layers[2].selector.values.clear();
  second.fix_supports({0, 2});
  bad.layers[2].selector.positions = {4, 2};
  CHECK(contains(message_of([&] { second.group.restore(second.model.ctx, bad); }), "strictly rising"));
  bad.layers[2].selector.positions = {4, 24};
  CHECK(contains(message_of([&] { second.group.restore(second.model.ctx, bad); }), "in [0, 24)"));
  bad.layers[2].selector.positions = {0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(message_of([&] { second.group.restore(second.model.ctx, bad); }) ==
        "layer 2 ('down'): the saved support has 8 positions, expected at most 7, the entries that are kept "
        "of this "
        "core");
  bad.layers[2].selector.positions = {4, 7};
  bad.layers[2].selector.values = {1};
  CHECK(contains(message_of([&] { second.group.restore(second.model.ctx, bad); }), "positions alone"));
  for (index_t i = 0; i < 3; ++i)
    second.group.use_selector(second.model.ctx, i, nullptr);
  bad.layers.pop_back();
  CHECK(message_of([&] { second.group.restore(second.model.ctx, bad); }) ==
        "the saved state has 2 weights, expected 3");
  unchanged();
  second.model.add_gradient(2);
  CHECK(contains(text(second.group, file), "holds a gradient"));
  CHECK_THROWS_AS((void)second.group.state(second.model.ctx), StateError);
  second.group.clear(second.model.ctx);
  unchanged();

  Group other(keeping(8));
  CHECK(text(other, file) == "f: 'group.': the saved state has 3 weights, expected 0");
  Model model;
  Group wide(keeping(8));
  model.add_to(wide);
  CHECK(contains(message_of([&] { io::get(model.ctx, file, "group.", wide); }),
                 "kept entries a step, expected"));
  // As files: saved and loaded by name, a text that is no plan, a basis that is not there yet.
  const std::string path = std::string(SPARSEGRAD_TEST_OUTPUT_DIR) + "/group.safetensors";
  io::save(first.model.ctx, path, first.group);
  io::load(second.model.ctx, path, second.group);
  CHECK(second.group.optimizer(0).steps() == 4);
  const std::vector<double> zeros(1000);
  const auto changed = [&](const std::function<void(std::string&)>& change, bool with_delta = false,
                           const std::string& zeroed = {}, double tolerance = 1e-9) {
    io::SafetensorsWriter writer;
    for (auto [key, value] : file.metadata()) {
      if (key == "group.layer.1.plan") change(value);
      writer.metadata(key, value);
    }
    if (with_delta) writer.metadata("group.layer.1.delta.type", "sparse_delta 1");
    for (const std::string& name : file.names()) {
      const io::Tensor tensor = file.find(name);
      writer.add(name, tensor.dtype, {tensor.shape.begin(), tensor.shape.end()},
                 name == zeroed ? std::as_bytes(std::span(zeros)).first(tensor.bytes.size()) : tensor.bytes);
    }
    return message_of([&] {
      io::get(second.model.ctx, io::SafetensorsFile(io::FileBytes::from(writer.bytes()), "f"), "group.",
              second.group, tolerance);
    });
  };
  CHECK(changed([](std::string&) {}) == "nothing was thrown");
  CHECK(contains(changed([](std::string& plan) { plan = "both"; }),
                 "f: metadata 'group.layer.1.plan' is 'both', expected a plan as"));
  const auto nothing = [](std::string&) {};
  CHECK(changed(nothing, false, "group.basis.1.in.factor") ==
        "f: tensor 'group.basis.1.in.factor' has rows that are not orthonormal: the largest defect is 1, "
        "expected at most 1e-09");
  CHECK(changed(nothing, false, "group.basis.1.in.factor", 2) == "nothing was thrown");
  // A group of adapters of version 0.1: their deltas belong to CoreAdapter now.
  CHECK(contains(changed([](std::string&) {}, true), "a layer kept a delta, as adapters of version 0.1 did"));
}

TEST_CASE("group files: lists that do not fit are refused by the tensor's name") {
  const Case c{"", keeping(7)};
  Run first(c);
  Run second(c);
  const io::SafetensorsFile file = saved(first, second, c);
  const auto text = [&](const std::string& replaced, io::DType dtype, index_t count,
                        std::span<const std::byte> bytes) {
    io::SafetensorsWriter writer;
    for (const auto& [key, value] : file.metadata())
      writer.metadata(key, value);
    for (const std::string& name : file.names()) {
      const io::Tensor tensor = file.find(name);
      if (name != replaced) writer.add(name, tensor.dtype, tensor.shape, tensor.bytes);
    }
    writer.add(replaced, dtype, {count}, bytes);
    const io::SafetensorsFile changed(io::FileBytes::from(writer.bytes()), "f");
    return message_of([&] { (void)io::get_group_state<double, B>(second.model.ctx, changed, "group."); });
  };
  const auto of = [&](const std::string& name, const auto& values) {
    using X = typename std::decay_t<decltype(values)>::value_type;
    return text(name, io::dtype_of<X>(), static_cast<index_t>(values.size()),
                std::as_bytes(std::span(values)));
  };
  CHECK(of("group.basis_of", std::vector<std::int64_t>{0, 2, 1}) ==
        "f: tensor 'group.basis_of' has basis 2 at layer 1, expected one in [0, 1]");
  CHECK(of("group.basis_of", std::vector<std::int64_t>{0, -1, 1}) ==
        "f: tensor 'group.basis_of' has basis -1 at layer 1, expected one in [0, 1]");
  for (const std::size_t count : {2U, 4U}) {
    CHECK(of("group.kept", std::vector<std::int64_t>(count, 7)) ==
          "f: tensor 'group.kept' has " + std::to_string(count) + " numbers, expected 3, one for each layer");
  }
  CHECK(contains(of("group.layer.1.support", std::vector<stored_index_t>{4, 4}),
                 "f: tensor 'group.layer.1.support' has position 4 at element 1"));
  CHECK(contains(of("group.layer.1.residual", std::vector<double>{0, std::nan("")}),
                 "f: tensor 'group.layer.1.residual' has NaN at element 1"));
}

TEST_CASE("group files: a restored group warms up no longer") {
  const Case c{"", keeping(7)};
  Run first(c);
  Run unused(c);
  const io::SafetensorsFile file = saved(first, unused, c);
  Case warming = c;
  warming.options.warmup_steps = 3;
  Run second(warming);
  second.model.add_gradients();
  CHECK(second.group.step(second.model.ctx, {}).warming_up);
  io::get(second.model.ctx, file, "group.", second.group);
  CHECK_FALSE(second.group.warming_up());
  CHECK_FALSE(second.group.collecting());
  second.model.add_gradients();
  CHECK_FALSE(second.group.step(second.model.ctx, {}).warming_up);
  CHECK(second.group.optimizer(0).steps() == 5);
}
