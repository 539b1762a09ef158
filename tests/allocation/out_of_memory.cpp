// Out of memory at any allocation that a step makes after reserve: nothing has changed, and the step can be taken
// again.
#include <doctest/doctest.h>

#include <new>
#include <string>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include "support/allocation_counter.hpp"
#include "support/layer_oracle.hpp"

using namespace sparsegrad;

namespace {

constexpr index_t out = 12;
constexpr index_t in = 10;

/// A group of a layer and of a weight whose gradient is given, a step after its bases were found.
template <class B>
struct Training {
  explicit Training(const GroupOptions& options)
      : layer(ctx, MatrixView<float>(weights[0].data(), out, in), nullptr), group(options) {
    group.add(ctx, layer, "up");
    group.add_weight(ctx, MatrixView<float>(weights[1].data(), out, in), "up");
    for (int i = 0; i < 3; ++i) {  // two of the warm-up and one that fills the states
      add_gradients();
      group.step(ctx, {.learning_rate = 0.1});
    }
    group.reserve(ctx);  // without it a step that finds no memory may be half done
  }
  void add_gradients() {
    for (std::vector<float>& gradient : gradients)
      for (float& g : gradient)
        g = static_cast<float>(random.next());
    const MatrixView<const float> first(gradients[0].data(), out, in);
    layer.add_gradient(ctx, first);
    group.set_gradient(1, MatrixView<const float>(gradients[1].data(), out, in));
  }

  using Matrix = std::vector<float>;
  typename B::Context ctx{1};
  oracle::Random random{3};
  std::vector<Matrix> weights{2, Matrix(static_cast<std::size_t>(out* in), 0.5F)};
  std::vector<Matrix> gradients = weights;
  SparseGradLinear<float, B> layer;
  SparseGradGroup<float, B> group;
};

/// How many allocations a step makes, each of which has failed once.
template <class B>
int steps_without_memory(const GroupOptions& options) {
  const auto go_on = [](Training<B>& training) {
    for (int i = 0; i < 3; ++i) {
      training.add_gradients();
      training.group.step(training.ctx, {.learning_rate = 0.1, .weight_decay = 0.1});
    }
    return training.weights;
  };
  const auto step = [](Training<B>& training) {
    training.group.step(training.ctx, {.learning_rate = 0.1, .weight_decay = 0.1});
  };
  Training<B> expected(options);
  expected.add_gradients();
  step(expected);
  const auto after_step = expected.weights;
  const auto at_the_end = go_on(expected);

  for (int n = 0;; ++n) {
    CAPTURE(n);
    Training<B> training(options);
    training.add_gradients();
    const auto before = training.weights;
    bool thrown = false;
    bool failed = false;
    {
      const test::FailingAllocation failing(n);
      try {
        step(training);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      failed = failing.failed();
    }
    if (thrown) {
      REQUIRE(training.weights == before);
      step(training);
    }
    REQUIRE(training.weights ==
            after_step);  // also where the library did without that memory (std::stable_sort's)
    if (!failed) return n;
    REQUIRE(go_on(training) == at_the_end);
  }
}

}  // namespace

TEST_CASE("each allocation of a step may fail: nothing has changed, and the step can be taken again") {
  if (!test::counts_allocations) return;
  for (const auto semantics :
       {AdamSemantics::torch, AdamSemantics::per_entry_step, AdamSemantics::dense_core}) {
    CAPTURE(std::string(to_string(semantics)));
    GroupOptions options;
    options.density = 0.2;
    options.warmup_steps = 2;
    options.capacity_factor = 1.2;
    options.optimizer.semantics = semantics;
    options.optimizer.overflow = Overflow::evict_smallest;
    CHECK(steps_without_memory<backend::Cpu>(options) == 0);
    CHECK(steps_without_memory<backend::CpuBlas>(options) == 0);
    options.optimizer.overflow = Overflow::go_dense;  // the arrays of both states
    const int arrays = semantics == AdamSemantics::per_entry_step ? 3 : 2;
    CHECK(steps_without_memory<backend::Cpu>(options) >= 2 * arrays);
    CHECK(steps_without_memory<backend::CpuBlas>(options) >= 2 * arrays);
  }
}
