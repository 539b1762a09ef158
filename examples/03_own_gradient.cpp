// An engine that computes its weight gradients itself and stores weights [in, out]: add_gradient in place of forward
// and backward. Here a softmax classifier, whose layer never sees a token.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/03_own_gradient.cpp -o own_gradient
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 40, classes = 8, tokens = 200;
  backend::Cpu::Context ctx;
  std::vector<float> w(in * classes), x(tokens * in), dw(classes * in), centre(classes * in);

  // Each class has a centre; a token is its class's centre and noise.
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  for (float& c : centre)
    c = uniform();

  // The view is of the weight as it lies in memory, [in, out].
  SparseGradLinear<float> layer(ctx, {w.data(), in, classes}, nullptr, {.layout = WeightLayout::in_out});
  SparseGradGroup<float> group({.density = 0.1});
  group.add(ctx, layer, "classifier");
  group.collect(ctx, {});

  for (int step = 0; step <= 50; ++step) {
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < in; ++i)
        x[t * in + i] = centre[t % classes * in + i] + uniform();
    double loss = 0;
    int correct = 0;
    dw.assign(dw.size(), 0);
    for (int t = 0; t < tokens; ++t) {
      float logit[classes] = {}, sum = 0;
      int best = 0;
      for (int i = 0; i < in; ++i)
        for (int o = 0; o < classes; ++o)
          logit[o] += x[t * in + i] * w[i * classes + o];
      for (int o = 0; o < classes; ++o) {
        if (logit[o] > logit[best]) best = o;
        sum += std::exp(logit[o]);
      }
      loss += std::log(sum) - logit[t % classes];
      correct += best == t % classes ? 1 : 0;
      // Whatever the weight's layout, the gradient is [out, in].
      for (int o = 0; o < classes; ++o) {
        const float dy = (std::exp(logit[o]) / sum - (o == t % classes ? 1.0f : 0.0f)) / tokens;
        for (int i = 0; i < in; ++i)
          dw[o * in + i] += dy * x[t * in + i];
      }
    }
    if (step >= 10 && step % 10 == 0)
      std::printf("step %2d  loss %.2f  correct %d of %d\n", step, loss / tokens, correct, tokens);

    layer.add_gradient(ctx, {dw.data(), classes, in});  // more than once: micro-batches, or a tied weight
    if (step < 10) group.end_collecting_step(ctx);
    if (step == 9) group.refresh(ctx);
    if (step >= 10) group.step(ctx, {.learning_rate = 0.05});
  }
}
