// Contexts in several threads at once, and executors that an engine lends: what the thread sanitizer watches.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "support/stacks.hpp"

using namespace sparsegrad;
using sparsegrad::test::message_of;

namespace {

using Context = backend::Cpu::Context;
using Basis = TuckerBasis<float>;

constexpr index_t out = 64, in = 48, tokens = 300;

std::vector<float> numbers(index_t count, std::uint32_t seed) {
  std::vector<float> list(static_cast<std::size_t>(count));
  for (float& entry : list) {
    seed = seed * 1664525U + 1013904223U;
    entry = static_cast<float>(seed >> 8) * 0x1p-24F - 0.5F;
  }
  return list;
}

/// Three steps of a group with one layer; returns its weight.
std::vector<float> train(Context& ctx, const Basis::Pointer& basis, std::uint32_t seed) {
  ctx.deterministic(true);
  std::vector<float> w = numbers(out * in, seed);
  const std::vector<float> x = numbers(tokens * in, seed + 1);
  std::vector<float> y(static_cast<std::size_t>(tokens * out));
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  GroupOptions options;
  options.entries = 100;
  SparseGradGroup<float> group(options);
  layer.set_basis(ctx, basis);
  group.add(ctx, layer, "up");
  for (int step = 0; step < 3; ++step) {
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    layer.backward(ctx, {y.data(), tokens, out}, saved, {}, nullptr);
    group.step(ctx, {.learning_rate = 0.01});
  }
  return w;
}

/// An engine's threads, which serve one call at a time, whichever context it comes from.
class EngineThreads final : public backend::host::Executor {
 public:
  int concurrency() const override { return 3; }
  void run(index_t count, Task task, void* argument) override {
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    std::atomic<index_t> next{0};
    const auto work = [&](int worker) {
      for (index_t i = next++; i < count; i = next++)
        task(argument, i, worker);
    };
    const std::jthread first(work, 1);
    const std::jthread second(work, 2);
    work(0);
  }

 private:
  std::mutex mutex_;
};

/// The weights of `threads` trainings at once, the contexts made by `make`.
template <class Make>
std::vector<std::vector<float>> at_once(int threads, const Basis::Pointer& basis, Make make) {
  std::vector<std::vector<float>> weights(static_cast<std::size_t>(threads));
  std::vector<std::jthread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      const std::unique_ptr<Context> ctx = make();
      weights[static_cast<std::size_t>(i)] = train(*ctx, basis, static_cast<std::uint32_t>(i));
    });
  }
  running.clear();
  return weights;
}

}  // namespace

TEST_CASE(
    "threads: contexts of several threads share a basis and an executor, and compute what each computes "
    "alone") {
  Context ctx(1);
  const Basis::Pointer basis =
      Basis::from_recipes(ctx, out, in, SideRecipe::random(32), SideRecipe::hadamard());
  std::vector<std::vector<float>> alone;
  for (std::uint32_t i = 0; i < 3; ++i)
    alone.push_back(train(ctx, basis, i));
  CHECK(alone[0] != alone[1]);
  CHECK(at_once(3, basis, [] { return std::make_unique<Context>(2); }) == alone);
  EngineThreads engine;
  CHECK(at_once(3, basis, [&] { return std::make_unique<Context>(engine); }) == alone);
}

TEST_CASE("threads: a context that moves between threads") {
  Context ctx(2);
  const Basis::Pointer basis =
      Basis::from_recipes(ctx, out, in, SideRecipe::random(8), SideRecipe::random(8));
  std::vector<float> here = train(ctx, basis, 1);
  std::vector<float> there;
  std::jthread([&] { there = train(ctx, basis, 1); }).join();
  CHECK(here == there);
}

TEST_CASE("threads: a second thread in a context is refused, and the first one goes on") {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    Context ctx(threads);
    std::atomic<bool> inside{false};
    std::atomic<bool> leave{false};
    std::atomic<int> done{0};
    std::jthread first([&] {
      ctx.parallel_for(8, [&](index_t) {
        inside = true;
        while (!leave)
          std::this_thread::yield();
        ctx.parallel_for(3, [&](index_t) { ++done; });  // of the same caller
      });
    });
    while (!inside)
      std::this_thread::yield();
    const std::string wanted = "two threads compute on one context at once, expected one caller at a time";
    CHECK_MESSAGE(message_of<StateError>([&] { ctx.parallel_for(8, [](index_t) {}); }).starts_with(wanted),
                  "parallel_for");
    CHECK_MESSAGE(message_of<StateError>([&] { (void)ctx.frame(); }).starts_with(wanted), "frame");
    leave = true;
    first.join();
    CHECK(done == 24);
    ctx.parallel_for(8, [&](index_t) { ++done; });
    CHECK(done == 32);
  }
}
