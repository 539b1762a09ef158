// A layer learns a teacher's weight with 5 % of each gradient, kept in a basis fitted to its first gradients.
#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>

int main() {
  using namespace sparsegrad;
  constexpr int in = 32, out = 64, tokens = 128;
  backend::Cpu::Context ctx;
  static float w[out * in], teacher[out * in], x[tokens * in], y[tokens * out], dy[tokens * out];
  for (int i = 0; i < out * in; ++i)
    teacher[i] = static_cast<float>(std::sin(0.1 * (i / in)) * std::cos(0.3 * (i % in)));

  SparseGradLinear<float> layer(ctx, {w, out, in}, nullptr);
  SparseGradGroup<float> group({.density = 0.05});
  group.add(ctx, layer, "up");
  group.collect(ctx, {});  // the first gradients make the basis, both sides full
  for (int step = 0; step <= 70; ++step) {
    for (int i = 0; i < tokens * in; ++i)
      x[i] = static_cast<float>(std::sin(1.7 * i + 0.9 * step * step));
    const auto saved = layer.forward(ctx, {x, tokens, in}, {y, tokens, out});
    double loss = 0;
    for (int t = 0; t < tokens; ++t)
      for (int o = 0; o < out; ++o) {
        float error = y[t * out + o];
        for (int i = 0; i < in; ++i)
          error -= x[t * in + i] * teacher[o * in + i];
        loss += 0.5 * error * error / tokens;
        dy[t * out + o] = error / tokens;
      }
    layer.backward(ctx, {dy, tokens, out}, saved, {}, nullptr);
    if (step < 10) group.end_collecting_step(ctx);
    if (step == 9) group.refresh(ctx);
    if (step >= 10) group.step(ctx, {.learning_rate = 0.03});
    if (step % 20 == 10)
      std::printf("step %3d  loss %4.1f  kept %lld of %d\n", step - 10, loss,
                  static_cast<long long>(group.kept(0)), out * in);
  }
}
