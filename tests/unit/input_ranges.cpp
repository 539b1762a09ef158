// Numbers, memory and functions that come in: what is out of range is refused, with its name, before
// anything has changed; what needs no memory takes none.
#include <doctest/doctest.h>

#include <sys/mman.h>

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/error_feedback.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>
#include <sparsegrad/extras/sparse_sgd.hpp>
#include <sparsegrad/extras/tensor.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

using Basis = TuckerBasis<double, B>;
using Gradient = SparseGradient<double, B>;

std::shared_ptr<const Basis> random_basis(B::Context& ctx, index_t out, index_t in, index_t rank) {
  return Basis::from_recipes(ctx, out, in, SideRecipe::random(rank), SideRecipe::random(rank));
}

Gradient first_entries(B::Context& ctx, index_t rows, index_t cols, index_t count) {
  Gradient s(ctx, rows, cols, count);
  std::vector<stored_index_t> at;
  for (index_t e = 0; e < count; ++e)
    at.push_back(static_cast<stored_index_t>(e));
  s.assign(ctx, at, std::vector<double>(at.size(), 1.0));
  return s;
}

}  // namespace

TEST_CASE("reserve: a number of tokens that cannot be is refused") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  Layer& layer = *model.layers[0];
  const auto basis = random_basis(model.ctx, 8, 6, 3);
  CoreAdapter<double, B> adapter(model.ctx, basis);
  FixedSupportLinear<double, B> fixed(model.ctx, layer.trained_weight(), nullptr, Basis::identity(8, 6),
                                      first_entries(model.ctx, 8, 6, 4));
  GivenGradient<double, B> given(model.ctx, 8, 6);
  const index_t before = model.ctx.scratch().bytes();
  for (const index_t tokens : {index_t{-1}, index_t{1} << 61, std::numeric_limits<index_t>::max(),
                               std::numeric_limits<index_t>::min()}) {
    const std::string expected =
        "max_tokens is " + std::to_string(tokens) +
        ", expected 0 <= max_tokens <= " + std::to_string((std::numeric_limits<index_t>::max() >> 8) / 8);
    CHECK(message_of([&] { group.reserve(model.ctx, tokens); }) == expected);
    CHECK(message_of([&] { layer.reserve(model.ctx, tokens); }) == expected);
    CHECK(message_of([&] { layer.gradient().reserve(model.ctx, tokens); }) == expected);
    CHECK(message_of([&] { adapter.reserve(model.ctx, tokens); }) == expected);
    CHECK(message_of([&] { fixed.gradient().reserve(model.ctx, tokens); }) == expected);
    CHECK(message_of([&] { given.reserve(model.ctx, tokens); }) == expected);
  }
  CHECK(message_of([&] { layer.reserve(model.ctx, 1, -1); }) ==
        "update_capacity is -1, expected 0 <= update_capacity <= 48");
  CHECK_THROWS_AS(layer.reserve(model.ctx, 1, index_t{1} << 61), ValueError);
  CHECK_THROWS_AS(model.ctx.scratch().reserve(-1), ValueError);
  CHECK(model.ctx.scratch().bytes() == before);
}

TEST_CASE("reserve: a core of that many tokens takes no more scratch memory") {
  B::Context ctx;
  const index_t tokens = 3000;
  CoreGradient<double, B> gradient(ctx, 80, 60,
                                   {.plan = Plan{SideOrder::project_first, SideOrder::project_first}});
  gradient.set_basis(ctx, random_basis(ctx, 80, 60, 20));
  gradient.reserve(ctx, tokens);
  const index_t reserved = ctx.scratch().bytes();
  const std::vector<double> x(60 * tokens, 1.0);
  const std::vector<double> dy(80 * tokens, 1.0);
  gradient.add_tokens(ctx, {dy.data(), tokens, 80}, {{x.data(), tokens, 60}});
  CHECK(gradient.core(ctx).rows == 20);
  CHECK(ctx.scratch().bytes() == reserved);
}

TEST_CASE("forward and backward: memory that is written while it is read is refused") {
  Model model;
  std::vector<double> square(36);
  Layer layer(model.ctx, MatrixView<double>(square.data(), 6, 6), nullptr);
  layer.set_basis(model.ctx, random_basis(model.ctx, 6, 6, 2),
                  Plan{SideOrder::project_first, SideOrder::project_first});
  CoreAdapter<double, B> adapter(model.ctx, MatrixView<const double>(square.data(), 6, 6), nullptr,
                                 layer.basis());
  FixedSupportLinear<double, B> fixed(model.ctx, layer.trained_weight(), nullptr, layer.basis(),
                                      first_entries(model.ctx, 2, 2, 2));
  std::vector<double> memory(200, 1.0);
  const auto at = [&](index_t first, index_t cols) {
    return MatrixView<double>(memory.data() + first, 4, cols);
  };
  const MatrixView<double> weight_rows(square.data(), 4, 6);
  const auto x = at(0, 6), y = at(24, 6), keep = at(48, 2);
  const auto refused = [&](const std::string& written, const std::string& read, auto&& f) {
    const std::vector<double> before = memory;
    CHECK(message_of(f) == written + " overlaps " + read +
                               " in memory, expected memory of its own: it is written while " + read +
                               " is still to be read");
    CHECK(memory == before);
  };
  for (const auto& bad : {x, at(3, 6)}) {
    refused("Y", "X", [&] { (void)layer.forward(model.ctx, x, bad); });
    refused("Y", "X", [&] { (void)adapter.forward(model.ctx, x, bad); });
    refused("Y", "X", [&] { fixed.forward(model.ctx, x, bad); });
  }
  refused("Y", "the weight", [&] { (void)layer.forward(model.ctx, x, weight_rows); });
  refused("the memory for x U", "X", [&] { (void)layer.forward(model.ctx, x, y, at(16, 2)); });
  refused("the memory for x U", "Y", [&] { (void)layer.forward(model.ctx, x, y, at(44, 2)); });
  const auto saved = layer.forward(model.ctx, x, y, keep);
  const auto dy = y;
  refused("dX", "dY", [&] { layer.backward(model.ctx, dy, saved, at(30, 6), nullptr); });
  refused("dX", "dY", [&] { adapter.backward(model.ctx, dy, saved, dy, nullptr); });
  refused("dX", "dY", [&] { fixed.backward(model.ctx, dy, x, dy, nullptr); });
  refused("dX", "the weight", [&] { layer.backward(model.ctx, dy, saved, weight_rows, nullptr); });
  CHECK_FALSE(layer.accumulating());
  // The bias at 190, db at other places; a square weight, so that dX has the columns of dY.
  double* const bias = memory.data() + 190;
  layer.rebind(MatrixView<double>(square.data(), 6, 6), bias);
  adapter.rebind(MatrixView<const double>(square.data(), 6, 6), bias);
  fixed.rebind(layer.trained_weight(), bias);
  refused("Y", "the bias", [&] { (void)layer.forward(model.ctx, x, at(170, 6), keep); });
  refused("Y", "the bias", [&] { (void)adapter.forward(model.ctx, x, at(170, 6), keep); });
  refused("Y", "the bias", [&] { fixed.forward(model.ctx, x, at(170, 6)); });
  refused("the memory for x U", "the bias", [&] { (void)layer.forward(model.ctx, x, y, at(188, 2)); });
  const auto refused_backward = [&](const std::string& written, const std::string& read,
                                    MatrixView<double> dx, double* db) {
    refused(written, read, [&] { layer.backward(model.ctx, dy, saved, dx, db); });
    refused(written, read, [&] { adapter.backward(model.ctx, dy, saved, dx, db); });
    refused(written, read, [&] { fixed.backward(model.ctx, dy, x, dx, db); });
  };
  refused_backward("db", "dY", {}, memory.data() + 40);
  refused_backward("db", "the weight", {}, square.data() + 30);
  refused_backward("db", "the bias", {}, bias + 5);
  refused_backward("dX", "the bias", at(170, 6), nullptr);
  refused_backward("dX", "db", at(60, 6), memory.data() + 83);
  CHECK_FALSE(layer.accumulating());
  // dX where X was: X was read before.
  Layer plain(model.ctx, MatrixView<double>(square.data(), 6, 6), nullptr);
  const auto kept = plain.forward(model.ctx, x, y);
  std::vector<double> dx(24);
  plain.backward(model.ctx, dy, kept, MatrixView<double>(dx.data(), 4, 6), nullptr);
  const double core = plain.core(model.ctx).data[0];
  plain.clear();
  plain.backward(model.ctx, dy, kept, x, nullptr);
  CHECK(std::vector<double>(memory.begin(), memory.begin() + 24) == dx);
  CHECK(plain.core(model.ctx).data[0] == core);
}

TEST_CASE("a basis: memory that is written while it is read is refused") {
  B::Context ctx;
  const auto basis = random_basis(ctx, 6, 6, 6);
  std::vector<double> memory(36, 1.0);
  const MatrixView<double> g(memory.data(), 6, 6);
  CHECK(contains(message_of([&] { basis->project(ctx, g, g); }), "the core overlaps the gradient"));
  CHECK(contains(message_of([&] { basis->expand(ctx, g, 0.0, g); }), "the gradient overlaps the core"));
  CHECK(memory == std::vector<double>(36, 1.0));
}

TEST_CASE("an optimizer's update is another object than the gradient, and dW other memory than W") {
  B::Context ctx;
  SparseAdam<double, B> adam(ctx, 4, 5, {});
  SparseSgd<double, B> sgd(ctx, 4, 5, {});
  Gradient s = first_entries(ctx, 4, 5, 3);
  CHECK(message_of([&] { adam.step(ctx, s, {}, s); }) == "D is S itself, expected another object");
  CHECK(message_of([&] { sgd.step(ctx, s, {}, s); }) == "D is S itself, expected another object");
  CHECK(adam.steps() == 0);
  std::vector<double> memory(50, 1.0);
  Group group(keeping(5));
  const index_t i = group.add_weight(ctx, MatrixView<double>(memory.data(), 4, 5), "up");
  CHECK(
      contains(message_of([&] { group.set_gradient(i, MatrixView<const double>(memory.data() + 7, 4, 5)); }),
               "weight 0 ('up'): the weight overlaps dW in memory"));
  group.set_gradient(i, MatrixView<const double>(memory.data() + 20, 4, 5));
  CHECK(group.step(ctx, {}).kept == 5);
}

TEST_CASE("extents of a layer whose size cannot be counted are refused") {
  B::Context ctx;
  constexpr index_t large = index_t{1} << 33;
  const std::string expected = "weight is 8589934592x8589934592, expected a matrix of less than 2^63 bytes";
  CHECK(message_of([&] { CoreGradient<double, B>(ctx, large, large); }) == expected);
  CHECK(message_of([&] { GivenGradient<double, B>(ctx, large, large); }) == expected);
  CHECK(message_of([&] { CoreAdapter<double, B>(ctx, Basis::identity(large, large)); }) == expected);
}

TEST_CASE("a function that is empty is refused where it is given") {
  Model model;
  GroupOptions options = keeping(5);
  options.warmup_steps = 1;
  options.recipe.sides = nullptr;
  const std::string expected =
      "the recipe's `sides` is empty, expected a function from a kind to SideRecipes";
  CHECK(message_of([&] { Group group(options); }) == expected);
  options.warmup_steps = 0;
  Group group(options);  // not looked at
  model.add_to(group);
  BasisRecipe recipe;
  recipe.sides = {};
  CHECK(message_of([&] { group.collect(model.ctx, recipe); }) == expected);
  CHECK_FALSE(group.collecting());
  using Function = std::function<void(B::Context&, MatrixView<const double>, Gradient&)>;
  using Pointer = void (*)(B::Context&, MatrixView<const double>, Gradient&);
  for (const auto& give : {std::function<void()>([&] { group.use_selector(Function()); }),
                           std::function<void()>([&] { group.use_selector(model.ctx, 0, Function()); }),
                           std::function<void()>([&] { group.use_selector(Pointer{nullptr}); })})
    CHECK(message_of(give) == "use_selector: the function is empty; nullptr stands for TopK");
  group.use_reduce(nullptr);  // none
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 15);
  CHECK(message_of([] { Group(keeping(-5)); }) == "entries is -5, expected >= 0 (0: by the density)");
}

TEST_CASE("a basis of rank 0 is refused by whoever would have an empty core") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  const std::vector<double> nothing(8);
  const auto none =
      Basis::from_sides(Basis::Side::from_factor(model.ctx, MatrixView<const double>(nothing.data(), 8, 0)),
                        Basis::Side::identity(6));
  const std::string expected =
      "the basis has rank 0 on the out side and 6 on the in side, expected at least 1: its core is empty";
  CHECK(message_of([&] { model.layers[0]->set_basis(model.ctx, none); }) == expected);
  CHECK(message_of([&] { group.set_basis(model.ctx, 0, none); }) == "layer 0 ('up'): " + expected);
  CHECK(message_of([&] { CoreAdapter<double, B>(model.ctx, none); }) == expected);
  CHECK(message_of([&] { CoreAdapter<double, B>(model.ctx, nullptr); }) ==
        "the adapter's basis is null, expected one");
  CHECK_THROWS_AS((GivenGradient<double, B>(model.ctx, 8, 6).set_basis(model.ctx, none)), ValueError);
  auto state = group.state(model.ctx);
  state.layers[1].basis = none;
  CHECK_THROWS_AS(group.restore(model.ctx, state), ValueError);
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 15);
}

TEST_CASE("a refusal names the layer") {
  Model model;
  Group group(keeping(6));
  model.add_to(group);
  const auto message = [&](auto&& f) {
    const Weights before = model.weights;
    const std::string text = message_of(f);
    CHECK(model.weights == before);
    group.clear(model.ctx);
    return text;
  };
  // A selector that keeps too much.
  group.use_selector(model.ctx, 1, [](auto&, auto, auto& s) { s.set_count(30); });
  model.add_gradients();
  CHECK(message([&] { group.step(model.ctx, {}); }) ==
        "layer 1 ('up'): count is 30, expected 0 <= count <= capacity = 6");
  group.use_selector(model.ctx, 1, nullptr);
  // NaN: in a step, in a selection, in a collection.
  const auto spoil = [&](std::size_t i) {
    model.add_gradients();
    model.layers[i]->core(model.ctx).data[3] = std::numeric_limits<double>::quiet_NaN();
  };
  spoil(2);
  CHECK(message([&] { group.step(model.ctx, {}); }) ==
        "layer 2 ('down'): the core gradient of 6x8 holds NaN at row 0, column 3; expected finite numbers");
  spoil(1);
  CHECK(contains(message([&] { group.select(model.ctx, 1); }), "layer 1 ('up'): the core gradient"));
  spoil(1);
  CHECK(contains(message([&] { (void)group.squared_norm(model.ctx), group.step(model.ctx, {}); }),
                 "layer 1 ('up'): the core gradient"));
  // A state that is full.
  GroupOptions full = keeping(6);
  full.capacity_factor = 1;
  full.optimizer.overflow = Overflow::error;
  Model two;
  Group narrow(full);
  two.add_to(narrow);
  two.add_gradients();
  narrow.step(two.ctx, {});
  two.add_gradients();
  const std::string capacity = message_of([&] { narrow.step(two.ctx, {}); });
  CHECK(contains(capacity, "layer 0 ('up'): "));
  CHECK_THROWS_AS(narrow.step(two.ctx, {}), CapacityError);
  // While collecting.
  group.collect(model.ctx, {});
  std::vector<double> g(48, 1.0);
  g[5] = std::numeric_limits<double>::infinity();
  model.add_gradient(0);
  model.layers[2]->add_gradient(model.ctx, MatrixView<const double>(g.data(), 6, 8));
  CHECK(contains(message([&] { group.end_collecting_step(model.ctx); }), "layer 2 ('down'): "));
  // Gradient memory in another's turn.
  GroupOptions turns = keeping(6);
  turns.share_gradient_memory = true;
  Model fourth;
  Group sharing(turns);
  fourth.add_to(sharing);
  fourth.add_gradient(1);
  CHECK(message_of([&] { fourth.add_gradient(2); }) ==
        "the shared gradient memory holds the gradient of layer 1 ('up'): select that layer's entries (or "
        "clear it) before the next layer's backward");
  // Without a name: the number alone.
  Model third;
  Group nameless(keeping(6));
  nameless.add(third.ctx, *third.layers[0], "");
  CHECK(message_of([&] { nameless.set_basis(third.ctx, 0, Basis::identity(5, 6)); }) ==
        "layer 0: basis is 5x6, expected 8x6 (out x in of the weight)");
}

TEST_CASE("set_basis: the next step says that a fixed support is of the basis before") {
  Model model;
  Group group(keeping(4));
  model.add_to(group);
  group.use_selector(model.ctx, 0, FixedSupport<double, B>(model.ctx, first_entries(model.ctx, 8, 6, 4)));
  model.add_gradients();
  group.step(model.ctx, {});
  group.set_basis(model.ctx, 0, random_basis(model.ctx, 8, 6, 5));
  model.add_gradients();
  CHECK(message_of([&] { group.step(model.ctx, {}); }) ==
        "layer 0 ('up'): FixedSupport: the core has another basis than the support was chosen in");
  group.clear(model.ctx);
  group.use_selector(model.ctx, 0, FixedSupport<double, B>(model.ctx, first_entries(model.ctx, 5, 5, 4)));
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 12);
}

TEST_CASE("a layer without a basis takes no gradient memory before its first gradient") {
  using Cpu = backend::Cpu;
  Cpu::Context ctx(1);
  constexpr index_t out = 11008, in = 4096;
  const auto basis =
      TuckerBasis<float, Cpu>::from_recipes(ctx, out, in, SideRecipe::random(16), SideRecipe::random(32));
  CoreAdapter<float, Cpu> adapter(ctx, basis);
  const index_t bytes = (16 * 32 + adapter.gradient().element_count()) * 4;  // Delta and its gradient
  CHECK(bytes < 1 << 20);
  CHECK(adapter.bytes() == bytes);
  adapter.reserve(ctx, 4);
  CHECK(adapter.bytes() == bytes);
  CHECK(ctx.scratch().bytes() < 40 << 20);  // virtual, 16 MiB of it for packing

  SUBCASE("also in a group, also with shared gradient memory") {
    Model model;
    for (const bool share : {false, true}) {
      GroupOptions options = keeping(5);
      options.share_gradient_memory = share;
      Group group(options);
      model.add_to(group);
      CHECK(group.memory(model.ctx).gradients == 0);
      group.set_basis(model.ctx, 0, random_basis(model.ctx, 8, 6, 2));
      CHECK(group.memory(model.ctx).gradients <= 48 * 8);
      group.reserve(model.ctx, 3);
      CHECK(group.memory(model.ctx).gradients ==
            (share ? 48 : 48 + 48 + model.layers[0]->gradient().element_count()) * 8);
      for (int i = 0; i < 3; ++i)
        group.remove(model.ctx, 0);
      for (auto& layer : model.layers)
        layer->set_basis(model.ctx, nullptr);
    }
  }
}

TEST_CASE("a core beyond 32-bit positions needs a basis, and works with one") {
  using Cpu = backend::Cpu;
  constexpr index_t n = 70000;
  constexpr std::size_t bytes = std::size_t{n} * n * sizeof(float);
  // Address space alone: no page of W is touched below.
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;  // a machine that gives none
  const std::unique_ptr<void, void (*)(void*)> owner(memory, [](void* p) { munmap(p, bytes); });
  {
    Cpu::Context ctx(1);
    SparseGradLinear<float, Cpu> layer(ctx, MatrixView<float>(static_cast<float*>(memory), n, n), nullptr);
    GroupOptions options;
    options.entries = 7;
    SparseGradGroup<float, Cpu> group(options);
    group.add(ctx, layer, "up");
    CHECK(group.memory(ctx).total() == 0);
    const std::string needs =
        "layer 0 ('up'): its core of 70000x70000 has more than 2^31 - 1 entries; give it a basis of lower "
        "rank "
        "first";
    group.use_selector(ctx, 0, std::make_shared<ErrorFeedback<float, Cpu>>());
    CHECK(message_of([&] { group.reserve(ctx, 2); }) == needs);
    CHECK(message_of([&] { (void)group.state(ctx); }) == needs);
    CHECK(message_of([&] { (void)group.select(ctx, 0); }) == "nothing was thrown");  // no gradient, no part
    CHECK_THROWS_AS(group.optimizer(0), StateError);
    const auto basis =
        TuckerBasis<float, Cpu>::from_recipes(ctx, n, n, SideRecipe::random(4), SideRecipe::random(4));
    group.set_basis(ctx, 0, basis);
    group.reserve(ctx, 2);
    std::vector<float> x(2 * n, 0.5F), dy(2 * n, 0.25F);
    layer.backward(ctx, MatrixView<const float>(dy.data(), 2, n),
                   {MatrixView<const float>(x.data(), 2, n), false}, {}, nullptr);
    CHECK(group.select(ctx, 0).kept == 7);
    group.clear(ctx);
    CHECK(group.memory(ctx).total() < 200 << 20);
    group.set_basis(ctx, 0, nullptr);  // back to none: nothing is allocated for it
    CHECK(message_of([&] { group.reserve(ctx, 2); }) == needs);

    CoreAdapter<float, Cpu> adapter(ctx, basis);
    std::vector<float> y(2 * n);
    const auto saved =
        adapter.forward(ctx, MatrixView<const float>(x.data(), 2, n), MatrixView<float>(y.data(), 2, n));
    adapter.backward(ctx, MatrixView<const float>(dy.data(), 2, n), saved, {}, nullptr);
    CHECK(adapter.core(ctx).size() == 16);
  }
}
