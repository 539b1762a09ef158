// An engine that has weights and computes their gradients itself hands both to a group, and is done: no layer, no
// tokens. Here a classifier y = W2 tanh(W1 x), whose weights lie in memory as [in, out].
//
// W1's gradient stands in memory of the engine's, which it writes anew in each step: the group is told of it once. W2's
// is bfloat16, as mixed precision leaves it, and is handed over step by step. Neither is copied.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/03_own_gradient.cpp -o own_gradient
#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 40, hidden = 32, classes = 8, tokens = 200;
  std::vector<float> w1(in * hidden), dw1(in * hidden), w2(hidden * classes), sums(hidden * classes);
  std::vector<bfloat16> dw2(hidden * classes);

  backend::Cpu::Context ctx;
  SparseGradGroup<float> group({.density = 0.1, .warmup_steps = 10});
  group.add_weight(ctx, {w1.data(), in, hidden}, "body",
                   {.layout = WeightLayout::in_out, .gradient = {dw1.data(), in, hidden}});
  const auto head =
      group.add_weight(ctx, {w2.data(), hidden, classes}, "head", {.layout = WeightLayout::in_out});

  // Each class has a centre; a token is its class's centre and noise.
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> centre(classes * in);
  for (auto* numbers : {&centre, &w1, &w2})
    for (float& number : *numbers)
      number = uniform();

  for (int step = 0; step <= 60; ++step) {
    dw1.assign(dw1.size(), 0);
    sums.assign(sums.size(), 0);
    float loss = 0;
    for (int t = 0; t < tokens; ++t) {
      const int label = t % classes;
      float x[in], h[hidden] = {}, y[classes] = {}, dh[hidden] = {}, sum = 0;
      for (int i = 0; i < in; ++i)
        x[i] = centre[label * in + i] + uniform();
      for (int j = 0; j < hidden; ++j) {
        for (int i = 0; i < in; ++i)
          h[j] += x[i] * w1[i * hidden + j];
        h[j] = std::tanh(h[j]);
        for (int o = 0; o < classes; ++o)
          y[o] += h[j] * w2[j * classes + o];
      }
      for (int o = 0; o < classes; ++o)
        sum += std::exp(y[o]);
      loss += (std::log(sum) - y[label]) / tokens;
      for (int o = 0; o < classes; ++o) {
        const float dy = (std::exp(y[o]) / sum - (o == label ? 1.0f : 0.0f)) / tokens;
        for (int j = 0; j < hidden; ++j) {
          sums[j * classes + o] += h[j] * dy;
          dh[j] += dy * w2[j * classes + o] * (1 - h[j] * h[j]);
        }
      }
      for (int i = 0; i < in; ++i)
        for (int j = 0; j < hidden; ++j)
          dw1[i * hidden + j] += x[i] * dh[j];
    }
    for (std::size_t e = 0; e < sums.size(); ++e)
      dw2[e] = bfloat16(sums[e]);

    group.set_gradient(head, {dw2.data(), hidden, classes});
    const GroupReport report = group.step(ctx, {.learning_rate = 0.02, .weight_decay = 0.01});
    if (step % 20 != 0) continue;
    std::printf(
        "step %2d  loss %.1f  %s\n", step, loss,
        report.warming_up ? "gradients are collected for the bases" : "about a tenth of the entries move");
  }
}
