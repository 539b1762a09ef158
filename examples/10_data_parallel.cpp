// Data parallel: two workers, each with half of the tokens. A core is linear in the data, so the group adds up the
// workers' r x c cores before it selects: `use_reduce` is the only line that a single worker's program does not have.
//
// g++ -std=c++20 -O2 -pthread -I include -isystem /usr/include/eigen3 examples/10_data_parallel.cpp -o data_parallel
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <array>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace sparsegrad;
constexpr int inputs = 24, outputs = 32, all_tokens = 64;

/// Stands for MPI_Allreduce or NCCL: afterwards both workers hold the sum, with the same bits.
class AllReduce {
 public:
  void operator()(int worker, MatrixView<float> mine) {
    part_[worker] = std::vector<float>(mine.data, mine.data + mine.size());
    both_.arrive_and_wait();
    for (index_t i = 0; i < mine.size(); ++i)
      mine.data[i] = part_[0][i] + part_[1][i];
    both_.arrive_and_wait();
    if (worker == 0) numbers_sent = mine.size();
  }
  index_t numbers_sent = 0;  ///< in the last call

 private:
  std::array<std::vector<float>, 2> part_;
  std::barrier<> both_{2};
};

/// Trains on the tokens [first, first + count); returns the weight. Without `reduce` it is alone.
std::vector<float> train(int first, int count, AllReduce* reduce) {
  std::mt19937 random;
  std::vector<float> x(all_tokens * inputs), target(all_tokens * outputs);
  for (auto* numbers : {&x, &target})
    for (float& number : *numbers)
      number = static_cast<float>(random() % 17) / 8 - 1;

  backend::Cpu::Context ctx(1);
  std::vector<float> w(outputs * inputs), y(count * outputs);
  SparseGradLinear<float> layer(ctx, {w.data(), outputs, inputs}, nullptr);
  SparseGradGroup<float> group(
      {.entries = 10, .warmup_steps = 1, .recipe = {.sides = [](const std::string&) {
                                           return SideRecipes{SideRecipe::hosvd(12), SideRecipe::hosvd()};
                                         }}});
  group.add(ctx, layer, "up");
  if (reduce != nullptr)
    group.use_reduce([&](backend::Cpu::Context&, MatrixView<float> g) { (*reduce)(first == 0 ? 0 : 1, g); });

  for (int step = 0; step < 20; ++step) {
    const auto saved =
        layer.forward(ctx, {x.data() + first * inputs, count, inputs}, {y.data(), count, outputs});
    for (int i = 0; i < count * outputs; ++i)
      y[i] = (y[i] - target[first * outputs + i]) / all_tokens;  // dY, in the place of Y
    layer.backward(ctx, {y.data(), count, outputs}, saved, {}, nullptr);
    group.step(ctx, {.learning_rate = 0.01});
  }
  return w;
}

int main() {
  AllReduce reduce;
  std::vector<float> a, b;
  {
    constexpr int half = all_tokens / 2;
    std::jthread one([&] { a = train(0, half, &reduce); }), two([&] { b = train(half, half, &reduce); });
  }
  const std::vector<float> alone = train(0, all_tokens, nullptr);
  float difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference = std::max(difference, std::abs(a[i] - alone[i]));
  std::printf("numbers on the wire a step: %d, where dense gradients have %d\n",
              static_cast<int>(reduce.numbers_sent), outputs * inputs);
  std::printf("both workers hold the same bits: %s\n", a == b ? "yes" : "no");
  std::printf("the weight of a single worker on all tokens, to 1e-5: %s\n",
              difference < 1e-5f ? "yes" : "no");
}
