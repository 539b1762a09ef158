#include <cmath>
#include <cstdio>
#include <sparsegrad/sparsegrad.hpp>
int main() {
  constexpr int out = 64, in = 32;
  static float W[out * in], dW[out * in];  // an engine's weight and its gradient
  sparsegrad::backend::Cpu::Context ctx;
  sparsegrad::SparseGradGroup<float> group({.density = 0.05, .warmup_steps = 10});
  const auto w = group.add_weight(ctx, {W, out, in}, "up");
  for (int step = 0; step <= 200; ++step) {
    float loss = 0;
    for (int i = 0; i < out * in; ++i) {  // stands for the engine's backward pass
      dW[i] = W[i] - std::sin(0.1f * float(i / in)) * std::cos(0.3f * float(i % in)) * float(i % 3);
      loss += 0.5f * dW[i] * dW[i];
    }
    group.set_gradient(w, {dW, out, in});  // read where it is, until the step
    group.step(ctx, {.learning_rate = 0.2});
    if (step % 100 == 0) std::printf("step %3d  loss %5.1f\n", step, loss);
  }
}
