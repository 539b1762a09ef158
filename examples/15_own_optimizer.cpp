// An optimizer of your own in a group: Lion, which writes no more than its step (methods/lion.hpp).
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/15_own_optimizer.cpp -o own_optimizer
#include "methods/lion.hpp"

#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>

using namespace sparsegrad;

int main() {
  constexpr int out = 64, in = 32;
  static float w[out * in], dw[out * in];
  backend::Cpu::Context ctx;
  SparseGradGroup<float, backend::Cpu, methods::Lion<float>> group({.density = 0.05});
  group.add_weight(ctx, {w, out, in}, "w", {.gradient = {dw, out, in}});
  for (int step = 0; step <= 200; ++step) {
    float loss = 0;
    for (int i = 0; i < out * in; ++i) {
      dw[i] = w[i] - std::sin(float(i));
      loss += 0.5f * dw[i] * dw[i];
    }
    if (step % 50 == 0) std::printf("step %3d  loss %5.1f\n", step, loss);
    group.step(ctx, {.learning_rate = 0.1});
  }
}
