// Micro-batches, a loss scale, and clipping by the norm over all parameters, the engine's own among them: what mixed
// precision training asks for.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/07_accumulate_clip.cpp -o accumulate_clip
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 24, out = 32, tokens = 64, micro_batches = 4, part = tokens / micro_batches;
  constexpr double max_norm = 280;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> w(out * in), bias(out), db(out), x(tokens * in), target(tokens * out), y(part * out);
  for (auto* numbers : {&x, &target})
    for (float& entry : *numbers)
      entry = 4 * uniform();

  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, bias.data());
  SparseGradGroup<float> group({.density = 0.1, .non_finite = NonFinite::skip});
  group.add(ctx, layer, "up");

  float scale = 0x1p126f;  // far too large: the first products overflow
  for (int step = 0; step < 8; ++step) {
    std::fill(db.begin(), db.end(), 0.0f);
    for (int m = 0; m < micro_batches; ++m) {  // gradients add up until the step
      const auto saved = layer.forward(ctx, {x.data() + m * part * in, part, in}, {y.data(), part, out});
      for (int i = 0; i < part * out; ++i)  // dY of the loss scale * |Y - target|^2 / 2
        y[i] = scale * (y[i] - target[m * part * out + i]);
      layer.backward(ctx, {y.data(), part, out}, saved, {}, db.data());
    }
    double sum = group.squared_norm(ctx);  // of all weights in the group, before any entry is chosen
    for (const float entry : db)
      sum += double(entry) * entry;
    const double norm = std::sqrt(sum) / scale;
    const double grad_scale = std::min(1.0, max_norm / norm) / scale;

    std::printf("step %d  loss scale 2^%-3d ", step, std::ilogb(scale));
    if (group.step(ctx, {.learning_rate = 0.01, .grad_scale = grad_scale}).skipped) {
      std::printf("overflow: weights and moments are as they were\n");
      scale *= 0x1p-6f;
      continue;
    }
    for (int o = 0; o < out; ++o)  // the engine trains the bias itself
      bias[o] -= static_cast<float>(0.001 * grad_scale * db[o]);
    std::printf("norm %.0f%s\n", norm, norm > max_norm ? ", clipped to 280" : "");
  }
}
