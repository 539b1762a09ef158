// A small MLP, y = W2 gelu(W1 x), learns another one's outputs three times from the same start: all entries of every
// gradient, the 1 % largest in a basis that its first gradients make, and the 1 % largest without a basis.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/14_mlp.cpp -o mlp
#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace sparsegrad;

float gelu(float a) {
  return a * 0.5f * (1 + std::erf(a * 0.70710678f));
}
float gelu_slope(float a) {
  return 0.5f * (1 + std::erf(a * 0.70710678f)) + a * std::exp(-0.5f * a * a) * 0.39894228f;
}

void train(const char* name, const GroupOptions& options, double learning_rate) {
  constexpr int width = 24, hidden = 64, tokens = 32;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto fill = [&](std::vector<float>& numbers, float size) {
    for (float& number : numbers)
      number = size * (static_cast<float>(random() >> 8) * 0x1p-23f - 1);
  };
  std::vector<float> w1(hidden * width), w2(width * hidden), left(3 * hidden), right(3 * width);
  for (auto* numbers : {&w1, &w2})
    fill(*numbers, 0.25f);
  for (auto* numbers : {&left, &right})
    fill(*numbers, 1);
  // Fine-tuning: what is to be learned differs from the start in a few directions.
  std::vector<float> t1 = w1, t2 = w2;
  for (int l = 0; l < 3; ++l)
    for (int i = 0; i < hidden * width; ++i) {
      t1[i] += 0.1f * left[l * hidden + i / width] * right[l * width + i % width];
      t2[i] += 0.1f * right[l * width + i / hidden] * left[l * hidden + i % hidden];
    }

  SparseGradLinear<float> up(ctx, {w1.data(), hidden, width}, nullptr);
  SparseGradLinear<float> down(ctx, {w2.data(), width, hidden}, nullptr);
  SparseGradLinear<float> teacher_up(ctx, {t1.data(), hidden, width}, nullptr);
  SparseGradLinear<float> teacher_down(ctx, {t2.data(), width, hidden}, nullptr);
  SparseGradGroup<float> group(options);
  group.add(ctx, up, "up");
  group.add(ctx, down, "down");

  std::vector<float> x(tokens * width), a(tokens * hidden), h(tokens * hidden), y(tokens * width),
      wanted(tokens * width), dh(tokens * hidden);
  const MatrixView<float> X(x.data(), tokens, width), A(a.data(), tokens, hidden),
      H(h.data(), tokens, hidden), Y(y.data(), tokens, width), Wanted(wanted.data(), tokens, width),
      dH(dh.data(), tokens, hidden);
  const auto activate = [&] {
    for (int i = 0; i < tokens * hidden; ++i)
      h[i] = gelu(a[i]);
  };
  std::printf("%-22s", name);
  double mean = 0;
  for (int step = 1; step <= 300; ++step) {
    fill(x, 1.7f);
    teacher_up.forward(ctx, X, A);
    activate();
    teacher_down.forward(ctx, H, Wanted);

    const auto saved_up = up.forward(ctx, X, A);
    activate();
    const auto saved_down = down.forward(ctx, H, Y);
    for (int i = 0; i < tokens * width; ++i) {
      y[i] = (y[i] - wanted[i]) / tokens;  // dY, in the place of Y
      mean += 0.5 * tokens * y[i] * y[i] / 100;
    }
    if (step % 100 == 0) {
      std::printf("  %8.2f", mean);
      mean = 0;
    }
    down.backward(ctx, Y, saved_down, dH, nullptr);
    for (int i = 0; i < tokens * hidden; ++i)
      dh[i] *= gelu_slope(a[i]);
    up.backward(ctx, dH, saved_up, {}, nullptr);

    group.step(ctx, {.learning_rate = learning_rate});
  }
  std::printf("\n");
}

int main() {
  std::printf("mean loss of steps         1-100   101-200   201-300\n");
  const GroupOptions all{
      .density = 1, .optimizer = {.semantics = AdamSemantics::dense_core}, .capacity_factor = 0};
  train("Adam, all entries", all, 0.01);
  train("1 %, in a basis", {.density = 0.01, .warmup_steps = 10}, 0.02);
  train("1 %, without a basis", {.density = 0.01}, 0.02);
}
