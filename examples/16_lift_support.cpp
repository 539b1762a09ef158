// LIFT (ICML 2025): without a basis, only the entries train that matter in the weight's best approximation of low rank,
// chosen anew now and then (methods/lift_support.hpp). Moments are kept where old and new support overlap, and are 0
// elsewhere: the state has room for one support, and forgets what has left it.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/16_lift_support.cpp -o lift_support
#include "methods/lift_support.hpp"

#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>

using namespace sparsegrad;

int main() {
  constexpr int out = 48, in = 32, rank = 4, k = rank * (out + in), period = 50;
  static float w[out * in], dw[out * in];
  for (int i = 0; i < out * in; ++i)
    w[i] = std::sin(float(i * i));
  backend::Cpu::Context ctx;
  SparseGradGroup<float> group(
      {.entries = k, .optimizer = {.overflow = Overflow::evict_smallest}, .capacity_factor = 1});
  group.add_weight(ctx, {w, out, in}, "w", {.gradient = {dw, out, in}});
  group.use_selector(ctx, 0, methods::LiftSupport<float>({w, out, in}, rank, period));
  for (int step = 0; step <= 200; ++step) {
    float loss = 0;
    for (int i = 0; i < out * in; ++i) {
      dw[i] = w[i] - std::cos(float(i * i));
      loss += 0.5f * dw[i] * dw[i];
    }
    const GroupReport report = group.step(ctx, {.learning_rate = 0.02});
    if (step % period != 0) continue;
    std::printf("step %3d  loss %5.1f  support of %d of %d entries, %3d of them as before\n", step, loss, k,
                out * in, step == 0 ? 0 : k - static_cast<int>(report.evicted));
  }
}
