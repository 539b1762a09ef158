// Fira (NeurIPS 2025): Adam in a subspace, and the rest of the gradient, scaled column by column as Adam scales the
// inside (methods/fira.hpp): a member `use_remainder` is given the whole gradient. Beside it the subspace alone.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/18_fira_residual.cpp -o fira_residual
#include "methods/fira.hpp"

#include <cstdio>

using namespace sparsegrad;

template <class Optimizer>
void train(const char* name) {
  constexpr int out = 48, in = 64;
  static float w[out * in], dw[out * in];
  backend::Cpu::Context ctx;
  SparseGradGroup<float, backend::Cpu, Optimizer> group({.density = 1});
  group.add_weight(ctx, {w, out, in}, "w", {.gradient = {dw, out, in}});
  const auto rank_8 = SideRecipe::random(8), all = SideRecipe::identity();
  group.set_basis(ctx, 0, TuckerBasis<float>::from_recipes(ctx, out, in, rank_8, all));
  for (int step = 0; step <= 200; ++step) {
    float loss = 0;
    for (int i = 0; i < out * in; ++i)
      dw[i] = w[i] - std::cos(float(i * i)), loss += 0.5f * dw[i] * dw[i];
    if (step % 100 == 0) std::printf("%-21s step %3d  loss %5.1f\n", name, step, loss);
    group.step(ctx, {.learning_rate = 0.01});
  }
}

int main() {
  train<SparseAdam<float>>("Adam in the subspace");
  train<methods::Fira<float>>("Fira");
}
