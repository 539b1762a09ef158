#include <sparsegrad/top_k.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/io/group_file.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

TEST_CASE("selectors: a share of the entries that is whole but for its rounding counts as whole") {
  for (int percent = 1; percent <= 100; ++percent) {
    CAPTURE(percent);
    CHECK(TopK::fraction(percent / 100.0, 100).k == percent);
    CHECK(TopK::fraction(percent / 100.0, 1000000).k == percent * 10000);
    CHECK(TopK::fraction(percent / 100.0, 100000000).k == percent * 1000000);
  }
  CHECK(TopK::fraction(0.012, 768 * 3072).k == 28312);  // 28311.552
  CHECK(TopK::fraction(0.5, 3).k == 2);
  CHECK(TopK::fraction(1e-9, 10).k == 1);
  CHECK(TopK::fraction(0.5000001, 100000000).k == 50000010);
}

TEST_CASE("selectors: extents whose product leaves 64 bits are refused") {
  B::Context ctx;
  const index_t large = index_t{1} << 32;
  CHECK(contains(message_of([&] { SparseGradient<double, B>(ctx, large, large, 0); }), "beyond 2^31 - 1"));
  CHECK(
      contains(message_of([&] { SparseGradient<double, B>(ctx, large, 3 * large, 0); }), "beyond 2^31 - 1"));
  CHECK_NOTHROW(SparseGradient<double, B>(ctx, 0, large, 0));
}

namespace {

/// Whose first `zero` throws; counts what is allocated.
struct Failing : B {
  static inline int held = 0;
  static inline bool fails = false;
  struct Memory : B::Memory {
    std::byte* allocate(std::size_t bytes) {
      ++held;
      return B::Memory::allocate(bytes);
    }
    void deallocate(std::byte* p) noexcept {
      --held;
      B::Memory::deallocate(p);
    }
  };
  static Memory memory(const Context&) { return {}; }
  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    if (fails) throw StateError("zero failed");
    B::zero<T>(ctx, p, n);
  }
};

}  // namespace

TEST_CASE("selectors: a buffer whose first zeros fail gives its memory back") {
  Failing::Context ctx;
  Failing::fails = true;
  CHECK_THROWS_AS((Buffer<double, Failing>(ctx, 8)), StateError);
  Failing::fails = false;
  CHECK(Failing::held == 0);
}

namespace {

using Gradient = SparseGradient<double, B>;

/// A selector with every hook: takes turns over the core, `width` entries a step, from where the last step that was taken
/// ended. Its place is a number of its state, and starts anew in another basis.
struct Rotating {
  index_t width = 3;
  index_t at = 0, commits = 0, changes = 0;

  void operator()(B::Context&, MatrixView<const double> core, Gradient& s) const {
    std::vector<bool> chosen(static_cast<std::size_t>(core.size()));
    for (index_t e = 0; e < width; ++e)
      chosen[static_cast<std::size_t>((at + e) % core.size())] = true;
    s.set_count(width);
    index_t k = 0;
    for (index_t e = 0; e < core.size(); ++e) {
      if (!chosen[static_cast<std::size_t>(e)]) continue;
      s.indices()[k] = static_cast<stored_index_t>(e);
      s.values()[k++] = core.data[e];
    }
  }
  void committed(B::Context&, MatrixView<const double> core, const Gradient& s) {
    CHECK(s.count() == width);
    CHECK(core.data[s.indices()[0]] == s.values()[0]);
    at = (at + width) % core.size();
    ++commits;
  }
  void basis_changed(B::Context&, index_t, index_t) {
    at = 0;
    ++changes;
  }
  SelectorState<double> state(B::Context&) const {
    return {{}, {static_cast<double>(at), static_cast<double>(commits)}};
  }
  void check_state(index_t, index_t, const SelectorState<double>& saved) const {
    if (saved.values.size() != 2) throw ValueError("the saved place is not two numbers");
  }
  void restore(B::Context&, const SelectorState<double>& saved) {
    at = static_cast<index_t>(saved.values[0]);
    commits = static_cast<index_t>(saved.values[1]);
  }
  index_t bytes() const { return 100; }
};
static_assert(Selector<Rotating, double, B>);

/// Without a state: the first entries, by a number that its caller counts.
struct First {
  int* calls;
  SelectReport operator()(B::Context&, MatrixView<const double> core, Gradient& s) const {
    ++*calls;
    s.set_count(2);
    for (stored_index_t e = 0; e < 2; ++e) {
      s.indices()[e] = e;
      s.values()[e] = core.data[e];
    }
    return {2, 2, false, false};
  }
};

}  // namespace

TEST_CASE("selectors: one of the caller's own at a layer; the policy for NaN is the library's") {
  Model model;
  Layer& layer = *model.layers[0];
  Rotating rotating;
  Gradient s(model.ctx, 8, 6, 3);
  const oracle::Matrix g = model.add_gradient(0);
  CHECK(layer.select(model.ctx, rotating, s).kept == 3);
  CHECK(s.indices()[2] == 2);
  CHECK(s.values()[2] == g.data[2]);
  CHECK(rotating.commits == 0);  // a selection alone moves nothing
  rotating.committed(model.ctx, layer.core(model.ctx), s);
  layer.select(model.ctx, std::as_const(rotating), s);
  CHECK(s.indices()[0] == 3);
  layer.core(model.ctx).data[4] = std::numeric_limits<double>::infinity();
  CHECK(message_of([&] { layer.select(model.ctx, rotating, s); }) ==
        "the core gradient of 8x6 holds Inf at row 0, column 4; expected finite numbers");
  CHECK(s.count() == 0);
  CHECK(layer.select(model.ctx, rotating, s, NonFinite::skip).skipped);
  CHECK(layer.select(model.ctx, rotating, s, NonFinite::propagate).kept == 3);
  CHECK(rotating.commits == 1);
}

TEST_CASE("selectors: a state of one's own follows the steps that are taken, and the bases") {
  GroupOptions options = keeping(5);
  options.non_finite = NonFinite::skip;
  Model model;
  Group group(options);
  model.add_to(group);
  const auto rotating = std::make_shared<Rotating>();
  group.use_selector(model.ctx, 1, rotating);
  CHECK(rotating->changes == 1);
  CHECK(group.memory(model.ctx).selectors == 100);
  for (index_t step = 0; step < 4; ++step) {
    model.add_gradients();
    CHECK(group.select(model.ctx, 1).kept == 3);
    CHECK(group.select(model.ctx, 1).kept == 3);
    CHECK(rotating->commits == step);
    CHECK(group.step(model.ctx, {}).kept == 13);
    CHECK(rotating->commits == step + 1);
    CHECK(group.gradient(1).indices()[0] == 3 * step);
  }
  // Not taken: no gradient, NaN in another layer, a refused step, a collecting step.
  model.add_gradient(0);
  group.step(model.ctx, {});
  oracle::Matrix bad = model.gradient(2);
  bad.data[0] = std::numeric_limits<double>::quiet_NaN();
  model.add_gradient(1);
  model.add(2, bad);
  CHECK(group.step(model.ctx, {}).skipped);
  model.add_gradients();
  CHECK_THROWS_AS(group.step(model.ctx, {.learning_rate = -1}), ValueError);
  group.clear(model.ctx);
  group.collect(model.ctx, recipe_of(SideRecipe::random(4), SideRecipe::hosvd(3)));
  model.add_gradients();
  group.end_collecting_step(model.ctx);
  CHECK(rotating->commits == 4);
  CHECK(rotating->at == 12);
  CHECK(rotating->changes == 1);
  group.refresh(model.ctx);
  CHECK(rotating->changes == 2);
  CHECK(rotating->at == 0);
  group.set_basis(model.ctx, 1, nullptr);
  CHECK(rotating->changes == 3);
  group.set_basis(model.ctx, 0, nullptr);
  CHECK(rotating->changes == 3);
  model.add_gradients();
  group.step(model.ctx, {});
  CHECK(group.gradient(1).indices()[2] == 2);
  group.use_selector(model.ctx, 1, nullptr);
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 15);
  CHECK(rotating->commits == 5);
}

TEST_CASE("selectors: a state goes to a file and back, and a group that was restored goes on bit by bit") {
  Model model;
  Model other;
  Group group(keeping(5));
  Group restored(keeping(5));
  model.add_to(group);
  other.add_to(restored);
  group.use_selector(model.ctx, 0, Rotating{});  // by value
  group.use_selector(model.ctx, 2, Rotating{.width = 4});
  const auto rotating = std::make_shared<Rotating>();
  restored.use_selector(other.ctx, 0, rotating);
  for (int step = 0; step < 5; ++step) {
    model.add_gradients();
    CHECK(group.step(model.ctx, {}).kept == 12);
  }
  const std::string path = std::string(SPARSEGRAD_TEST_OUTPUT_DIR) + "/selectors.safetensors";
  io::save(model.ctx, path, group);
  CHECK(contains(
      message_of([&] { io::load(other.ctx, path, restored); }),
      "layer 2 ('down'): the saved state has one of a selector, and the layer has none that keeps a state"));
  CHECK(rotating->at == 0);
  CHECK(restored.optimizer(0).steps() == 0);
  restored.use_selector(other.ctx, 2, Rotating{.width = 4});
  io::load(other.ctx, path, restored);
  CHECK(rotating->at == 15);
  CHECK(rotating->commits == 5);
  for (std::size_t i = 0; i < 3; ++i)
    std::copy(model.weights[i].begin(), model.weights[i].end(), other.weights[i].begin());
  other.random = model.random;
  for (int step = 0; step < 3; ++step) {
    model.add_gradients();
    other.add_gradients();
    group.step(model.ctx, {});
    restored.step(other.ctx, {});
    CHECK(model.weights == other.weights);
  }
  // What the selector refuses, the group refuses, and is as it was.
  auto bad = group.state(model.ctx);
  bad.layers[2].selector.values.pop_back();
  CHECK(message_of([&] { restored.restore(other.ctx, bad); }) ==
        "layer 2 ('down'): the saved place is not two numbers");
  CHECK(rotating->commits == 8);
}

TEST_CASE("selectors: one without a state serves all layers, one with a state a single layer") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  int calls = 0;
  group.use_selector(First{&calls});
  int single = 0;
  group.use_selector(model.ctx, 1, First{&single});
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 6);
  CHECK(calls == 2);
  CHECK(single == 1);
  CHECK(contains(message_of([&] { group.use_selector(Rotating{}); }), "one layer's own"));
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 6);
  CHECK(calls == 4);
  const auto rotating = std::make_shared<Rotating>();
  group.use_selector(model.ctx, 0, rotating);
  CHECK(message_of([&] { group.use_selector(model.ctx, 2, rotating); }) ==
        "use_selector: layer 0 ('up') uses this selector, whose state is one layer's own");
  group.use_selector(model.ctx, 0, rotating);  // the same again
  group.use_selector(nullptr);
  group.use_selector(model.ctx, 1, nullptr);
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 3 + 5 + 5);

  GroupOptions options = keeping(5);
  options.share_gradient_memory = true;
  Group sharing(options);
  Model third;
  third.add_to(sharing);
  CHECK(contains(message_of([&] { sharing.use_selector(third.ctx, 0, rotating); }), "share_gradient_memory"));
  sharing.use_selector(third.ctx, 0, First{&single});
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

/// Top-k that counts the steps that are taken.
struct Counted {
  int commits = 0;
  SelectReport operator()(Scarce::Context& ctx, MatrixView<const double> core,
                          SparseGradient<double, Scarce>& s) const {
    return TopK{s.capacity()}(ctx, core, s);
  }
  void committed(Scarce::Context&, MatrixView<const double>, const SparseGradient<double, Scarce>&) {
    ++commits;
  }
};

}  // namespace

TEST_CASE("selectors: no memory for a later layer's state: no selector has heard of the step") {
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
  const auto counted = std::make_shared<Counted>();
  group.use_selector(ctx, 0, counted);
  const oracle::Matrix first = random.matrix(8, 6);
  const oracle::Matrix second = random.matrix(8, 6);
  const auto add = [&](std::size_t i, const oracle::Matrix& g) {
    layers[i]->add_gradient(ctx, MatrixView<const double>(g.data.data(), 8, 6));
  };
  add(0, first);
  add(1, first);
  group.step(ctx, {});
  CHECK(counted->commits == 1);
  add(0, first);
  add(1, second);
  Scarce::scarce = true;
  CHECK_THROWS_AS(group.step(ctx, {}), std::bad_alloc);
  Scarce::scarce = false;
  CHECK(counted->commits == 1);
  CHECK(group.step(ctx, {}).became_dense == 1);
  CHECK(counted->commits == 2);
}
