// An engine has threads of its own: lend them to the library as an Executor, and it starts none. With
// deterministic(true) the results have the same bits on any number of threads.
//
// g++ -std=c++20 -O2 -pthread -I include -isystem /usr/include/eigen3 examples/11_threads.cpp -o threads
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <atomic>
#include <barrier>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

using namespace sparsegrad;

/// A pool as an engine may have it: two threads that wait for work, and the caller.
class EnginePool final : public backend::host::Executor {
 public:
  ~EnginePool() override {
    task_ = nullptr;
    begin_.arrive_and_wait();
  }
  int concurrency() const override { return 3; }
  void run(index_t count, Task task, void* argument) override {
    task_ = task;
    argument_ = argument;
    count_ = count;
    next_ = 0;
    begin_.arrive_and_wait();
    work(0);
    end_.arrive_and_wait();  // only when all tasks have ended
    tasks_run += count;
  }
  index_t tasks_run = 0;

 private:
  void work(int worker) {
    for (index_t i = next_++; i < count_; i = next_++)
      task_(argument_, i, worker);
  }
  void wait_for_work(int worker) {
    for (;;) {
      begin_.arrive_and_wait();
      if (task_ == nullptr) return;
      work(worker);
      end_.arrive_and_wait();
    }
  }
  Task task_ = nullptr;
  void* argument_ = nullptr;
  index_t count_ = 0;
  std::atomic<index_t> next_ = 0;
  std::barrier<> begin_{3}, end_{3};
  std::jthread first_{[this] { wait_for_work(1); }}, second_{[this] { wait_for_work(2); }};
};

/// Five steps of one layer; returns its weight.
std::vector<float> train(backend::Cpu::Context& ctx) {
  constexpr int in = 48, out = 64, tokens = 600, k = 100;
  ctx.deterministic(true);
  std::mt19937 random;
  std::vector<float> w(out * in), x(tokens * in), y(tokens * out);
  for (float& entry : x)
    entry = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  layer.set_basis(
      ctx, TuckerBasis<float>::from_recipes(ctx, out, in, SideRecipe::random(32), SideRecipe::random(32)));
  SparseAdam<float> adam(ctx, 32, 32);
  SparseGradient<float> s(ctx, 32, 32, k), d(ctx, 32, 32, k);
  for (int step = 0; step < 5; ++step) {
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    for (int i = 0; i < tokens * out; ++i)
      y[i] = (y[i] - x[i % (tokens * in)]) / tokens;  // dY
    layer.backward(ctx, {y.data(), tokens, out}, saved, {}, nullptr);
    layer.select(ctx, TopK{k}, s);
    adam.step(ctx, s, {.learning_rate = 0.01}, d);
    layer.apply(ctx, d);
    layer.clear();
  }
  return w;
}

int main() {
  EnginePool pool;
  backend::Cpu::Context lent(pool), alone(1),
      own(3);  // a borrowed pool, no thread but the caller's, three of its own
  const std::vector<float> on_pool = train(lent), on_one = train(alone), on_three = train(own);
  std::printf("threads: %d lent, %d, %d of the library's own\n", lent.threads(), alone.threads(),
              own.threads());
  std::printf("the engine's pool ran tasks: %s\n", pool.tasks_run > 0 ? "yes" : "no");
  std::printf("same bits on 1 and 3 threads: %s, lent or not: %s\n", on_one == on_three ? "yes" : "no",
              on_pool == on_three ? "yes" : "no");
}
