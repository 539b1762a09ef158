#include <sparsegrad/top_k.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>
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
  CHECK(s.count() == 0);
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
      "layer 2 ('down'): the saved state has one of a selector, and the group none that keeps a state here"));
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
  CHECK(contains(message_of([&] { group.use_selector(Rotating{}); }), "belongs to one weight"));
  model.add_gradients();
  CHECK(group.step(model.ctx, {}).kept == 6);
  CHECK(calls == 4);
  const auto rotating = std::make_shared<Rotating>();
  group.use_selector(model.ctx, 0, rotating);
  CHECK(message_of([&] { group.use_selector(model.ctx, 2, rotating); }) ==
        "use_selector: layer 0 ('up') uses this selector, whose state belongs to one weight");
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

namespace {

/// Writes what it is told to, whatever the core.
struct Writes {
  std::vector<stored_index_t> positions;
  std::vector<double> values;

  void operator()(B::Context&, MatrixView<const double>, Gradient& s) const {
    s.set_count(static_cast<index_t>(std::max(positions.size(), values.size())));
    std::copy(positions.begin(), positions.end(), s.indices());
    std::copy(values.begin(), values.end(), s.values());
  }
};

}  // namespace

TEST_CASE("selectors: what a selector of the caller's writes is looked at") {
  Model model;
  Gradient s(model.ctx, 8, 6, 3);
  const oracle::Matrix g = model.gradient(0);
  const MatrixView<const double> core(g.data.data(), 8, 6);
  const auto message = [&](const std::vector<stored_index_t>& positions) {
    s.assign(model.ctx, std::vector<stored_index_t>{4, 5}, std::vector<double>{1, 2});
    const std::string text = message_of([&] {
      select_entries<double, B>(model.ctx, Writes{positions, {1, 2, 3}}, core, s);
    });
    CHECK(s.count() == 0);
    return text;
  };
  const std::string expected = ", expected strictly rising positions in [0, 48)";
  CHECK(message({7, 5, 7}) == "the selector wrote position 5 at entry 1" + expected);
  CHECK(message({5, 7, 7}) == "the selector wrote position 7 at entry 2" + expected);
  CHECK(message({-1, 7, 9}) == "the selector wrote position -1 at entry 0" + expected);
  CHECK(message({5, 7, 48}) == "the selector wrote position 48 at entry 2" + expected);
  CHECK(select_entries<double, B>(model.ctx, Writes{{0, 5, 47}, {1, 2, 3}}, core, s).kept == 3);

  const double inf = std::numeric_limits<double>::infinity();
  CHECK(contains(message_of([&] {
                   select_entries<double, B>(model.ctx, Writes{{0, 5, 47}, {1, -inf, 3}}, core, s);
                 }),
                 "holds Inf at row 0, column 5"));
  // Positions beyond the first few thousand are looked at as well.
  std::vector<double> large(10000, 1.0);
  Gradient many(model.ctx, 100, 100, 9000);
  Writes writes;
  for (stored_index_t e = 0; e < 9000; ++e)
    writes.positions.push_back(e);
  const MatrixView<const double> whole(large.data(), 100, 100);
  CHECK(select_entries<double, B>(model.ctx, writes, whole, many).kept == 9000);
  writes.positions[8192] = 8191;
  CHECK(contains(message_of([&] { select_entries<double, B>(model.ctx, writes, whole, many); }),
                 "position 8191 at entry 8192"));
}

TEST_CASE("selectors: nothing of the step before is left to a selector that writes nothing") {
  Model model;
  Group group(keeping(3));
  model.add_to(group);
  const auto writes = std::make_shared<Writes>(Writes{{1, 2, 3}, {1, 1, 1}});
  group.use_selector(model.ctx, 0, writes);
  model.add_gradients();
  CHECK(group.step(model.ctx, {.learning_rate = 0.1}).kept == 9);
  const std::vector<double> before = model.weights[0];
  SUBCASE("not even their number") {
    group.use_selector(model.ctx, 0,
                       [](B::Context&, MatrixView<const double>, Gradient& s) { CHECK(s.count() == 0); });
    model.add_gradients();
    CHECK(group.step(model.ctx, {.learning_rate = 0.1}).kept == 6);
    CHECK(model.weights[0] == before);
  }
  SUBCASE("values, but no positions") {
    writes->positions.clear();
    model.add_gradients();
    CHECK_THROWS_AS(group.step(model.ctx, {.learning_rate = 0.1}), ValueError);
    CHECK(model.weights[0] == before);
  }
  SUBCASE("positions, but no values: gradients of 0") {
    writes->values.clear();
    model.add_gradients();
    group.step(model.ctx, {.learning_rate = 0.1});
    for (index_t e = 0; e < 3; ++e)
      CHECK(group.gradient(0).values()[e] == 0);
  }
  SUBCASE("it throws halfway") {
    group.use_selector(model.ctx, 0, [](B::Context&, MatrixView<const double>, Gradient& s) {
      s.set_count(2);
      throw std::runtime_error("lost");
    });
    model.add_gradients();
    CHECK_THROWS_AS(group.step(model.ctx, {.learning_rate = 0.1}), std::runtime_error);
    CHECK(group.gradient(0).count() == 0);
    CHECK(model.weights[0] == before);
    group.use_selector(model.ctx, 0, nullptr);
    CHECK(group.step(model.ctx, {.learning_rate = 0.1}).kept == 9);
  }
}

TEST_CASE("selectors: a part of the core is kept where the density allows for all of it") {
  for (const double capacity_factor : {0.0, 4.0}) {
    Model model;
    Model other;
    GroupOptions options{.density = 1};
    options.capacity_factor = capacity_factor;
    Group group(options);
    Group usual(keeping(2));
    model.add_to(group);
    other.add_to(usual);
    group.use_selector(TopK{2});
    for (int step = 0; step < 3; ++step) {
      model.add_gradients();
      other.add_gradients();
      CHECK(group.step(model.ctx, {.learning_rate = 0.1}).kept == 6);
      usual.step(other.ctx, {.learning_rate = 0.1});
    }
    CHECK(model.weights == other.weights);
    group.use_selector(nullptr);
    model.add_gradients();
    CHECK(group.step(model.ctx, {.learning_rate = 0.1}).kept == 3 * 48);
    CHECK(group.gradient(0).dense());
  }
  B::Context ctx;
  Gradient s(ctx, 2, 2, 4);
  CHECK_FALSE(s.has_positions());
  CHECK(contains(message_of([&] { s.set_count(2); }), "call reserve_positions first"));
  s.reserve_positions(ctx);
  CHECK(s.has_positions());
  s.assign(ctx, std::vector<stored_index_t>{1, 3}, std::vector<double>{5, 6});
  CHECK(s.positions(ctx) == std::vector<stored_index_t>{1, 3});
}

TEST_CASE("selectors: a fixed support that is larger than what the layer keeps is refused at once") {
  B::Context ctx;
  std::vector<double> w(4);
  const std::vector<double> dw{1, 2, 3, 4};
  Gradient support(ctx, 2, 2, 2);
  support.assign(ctx, std::vector<stored_index_t>{0, 2}, std::vector<double>(2));
  Group group;
  group.add_weight(ctx, {w.data(), 2, 2}, "w");
  CHECK(
      message_of([&] { group.use_selector(ctx, 0, FixedSupport<double, B>(ctx, support)); }) ==
      "use_selector: weight 0 ('w') keeps 1 entries, the selector 2; raise the group's entries (or density)");
  group.set_gradient(0, {dw.data(), 2, 2});
  CHECK(group.step(ctx, {}).kept == 1);
  Group all(keeping(4));
  all.add_weight(ctx, {w.data(), 2, 2}, "w");
  all.use_selector(ctx, 0, FixedSupport<double, B>(ctx, support));
  all.set_gradient(0, {dw.data(), 2, 2});
  CHECK(all.step(ctx, {}).kept == 2);

  // A layer that computes a support alone keeps it, whatever the density.
  FixedSupportLinear<double, B> layer(ctx, TrainedWeight<double>({w.data(), 2, 2}, WeightLayout::out_in),
                                      nullptr, TuckerBasis<double, B>::identity(2, 2), support);
  for (const double density : {0.012, 1.0}) {
    Group sampled({.density = density});
    sampled.add(ctx, layer, "w");
    layer.gradient().add(ctx, MatrixView<const double>(dw.data(), 2, 2));
    CHECK(sampled.step(ctx, {}).kept == 2);
  }

  // Positions that were written by hand.
  support.indices()[1] = 0;
  CHECK(contains(message_of([&] { FixedSupport<double, B>(ctx, support); }), "position 0 at entry 1"));
  CHECK(contains(
      message_of([&] { SampledGradient<double, B>(ctx, TuckerBasis<double, B>::identity(2, 2), support); }),
      "position 0 at entry 1"));
}

TEST_CASE_TEMPLATE("selectors: all NaN are equal, also in the last elements of a core", Backend,
                   backend::Reference, backend::Cpu) {
  typename Backend::Context ctx(1);
  for (const index_t n : {13, 5003}) {
    CAPTURE(n);
    std::vector<float> core(static_cast<std::size_t>(n), 1.0F);
    // From the first to the last, and the last have the largest payloads.
    std::vector<stored_index_t> at;
    for (const index_t position : {index_t{2}, index_t{5}, n - 5, n - 3, n - 2, n - 1}) {
      const auto bits = 0x7fc00001U + static_cast<std::uint32_t>(at.size());
      core[static_cast<std::size_t>(position)] = std::bit_cast<float>(bits);
      at.push_back(static_cast<stored_index_t>(position));
    }
    SparseGradient<float, Backend> s(ctx, 1, n, 4);
    select_entries<float, Backend>(ctx, TopK{4}, MatrixView<const float>(core.data(), 1, n), s,
                                   NonFinite::propagate);
    at.resize(4);
    CHECK(s.positions(ctx) == at);
  }
}

TEST_CASE("selectors: NaN that a selector assigns is found by select, not by assign") {
  Model model;
  Layer& layer = *model.layers[0];
  SparseGradient<double, B> s(model.ctx, 8, 6, 2);
  const std::vector<stored_index_t> positions{3, 6};
  const std::vector<double> values{1, std::numeric_limits<double>::quiet_NaN()};
  CHECK_NOTHROW(s.assign(model.ctx, positions, values));
  const auto own = [&](auto& ctx, auto, auto& to) { to.assign(ctx, positions, values); };
  CHECK(message_of([&] { layer.select(model.ctx, own, s); }) ==
        "the core gradient of 8x6 holds NaN at row 1, column 0; expected finite numbers");
  CHECK(s.count() == 0);
  CHECK(layer.select(model.ctx, own, s, NonFinite::skip).skipped);
}
