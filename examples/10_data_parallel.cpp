// Data parallel: two workers, each with half of the tokens. A core is linear in the data, so the workers add up their
// r x c cores (an all-reduce) before selection and then take the same step. They agree with one worker on all tokens.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/10_data_parallel.cpp -o data_parallel
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

using namespace sparsegrad;
constexpr int inputs = 24, outputs = 32, all_tokens = 64, kept_entries = 40, reduced_rank = 12;

struct Worker {
  backend::Cpu::Context ctx;
  int first, count;  ///< its part of the tokens
  std::vector<float> w = std::vector<float>(outputs * inputs), y = std::vector<float>(all_tokens * outputs);
  SparseGradLinear<float> layer{ctx, {w.data(), outputs, inputs}, nullptr};
  std::shared_ptr<HosvdAccumulator<float>> sums =
      std::make_shared<HosvdAccumulator<float>>(ctx, outputs, inputs);
  SparseAdam<float> adam{ctx, reduced_rank, inputs};
  SparseGradient<float> s{ctx, reduced_rank, inputs, kept_entries},
      d{ctx, reduced_rank, inputs, kept_entries};

  Worker(int first_, int count_) : first(first_), count(count_) {}

  void backward(const std::vector<float>& x, const std::vector<float>& target) {
    const auto saved =
        layer.forward(ctx, {x.data() + first * inputs, count, inputs}, {y.data(), count, outputs});
    for (int i = 0; i < count * outputs; ++i)
      y[i] = (y[i] - target[first * outputs + i]) / all_tokens;  // dY, in the place of Y
    layer.backward(ctx, {y.data(), count, outputs}, saved, {}, nullptr);
  }
  void step() {
    layer.select(ctx, TopK{kept_entries}, s);
    adam.step(ctx, s, {.learning_rate = 0.01}, d);
    layer.apply(ctx, d);
    layer.clear(ctx);
  }
};

/// Stands for MPI_Allreduce and the like: afterwards both hold the sum.
void all_reduce(MatrixView<float> a, MatrixView<float> b) {
  for (index_t i = 0; i < a.size(); ++i)
    a.data[i] = b.data[i] = a.data[i] + b.data[i];
}

int main() {
  std::mt19937 random;
  std::vector<float> x(all_tokens * inputs), target(all_tokens * outputs);
  for (auto* numbers : {&x, &target})
    for (float& number : *numbers)
      number = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  Worker a(0, all_tokens / 2), b(all_tokens / 2, all_tokens / 2), single(0, all_tokens);

  // The basis must be the same everywhere. Accumulators are merged, so that it comes from the gradients of all
  // workers; a basis does not change, so workers of one process can share it.
  for (Worker* worker : {&a, &b}) {
    worker->layer.collect(worker->ctx, worker->sums);
    worker->backward(x, target);
    worker->layer.core(worker->ctx);  // hands the gradient to the accumulator
    worker->layer.clear(worker->ctx);
    worker->layer.collect(worker->ctx, nullptr);
  }
  a.sums->merge(a.ctx, *b.sums);
  const auto basis =
      TuckerBasis<float>::fit(a.ctx, *a.sums, SideRecipe::hosvd(reduced_rank), SideRecipe::hosvd());
  for (Worker* worker : {&a, &b, &single})
    worker->layer.set_basis(worker->ctx, basis);

  for (int n = 0; n < 20; ++n) {
    for (Worker* worker : {&a, &b, &single})
      worker->backward(x, target);
    all_reduce(a.layer.core(a.ctx), b.layer.core(b.ctx));
    for (Worker* worker : {&a, &b, &single})
      worker->step();
  }
  float difference = 0;
  for (std::size_t i = 0; i < a.w.size(); ++i)
    difference = std::max(difference, std::abs(a.w[i] - single.w[i]));
  std::printf("numbers on the wire a step: %d, where dense gradients have %d\n", reduced_rank * inputs,
              outputs * inputs);
  std::printf("both workers hold the same bits: %s\n", a.w == b.w ? "yes" : "no");
  std::printf("the weight of a single worker, to 1e-5: %s\n", difference < 1e-5f ? "yes" : "no");
}
