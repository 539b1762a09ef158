// After a warm-up the entries that matter are known. With a fixed support only the gradient at these is computed, by a
// sampled product, and the layer has no memory for a dense gradient any more.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/09_fixed_support.cpp -o fixed_support
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 48, out = 64, tokens = 96, k = 200;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> w(out * in), x(tokens * in), target(tokens * out), y(tokens * out), dy(tokens * out);
  for (float& entry : x)
    entry = uniform();
  for (int o = 0; o < out; o += 16)  // four outputs have something to learn
    for (int i = 0; i < in; ++i) {
      const float weight = uniform();
      for (int t = 0; t < tokens; ++t)
        target[t * out + o] += weight * x[t * in + i];
    }

  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  layer.set_basis(
      ctx, TuckerBasis<float>::from_recipes(ctx, out, in, SideRecipe::identity(), SideRecipe::random()));
  SparseAdam<float> adam(ctx, out, in);
  SparseGradient<float> s(ctx, out, in, k), d(ctx, out, in, k);
  double loss = 0;
  const auto forward_and_backward = [&] {
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    loss = 0;
    for (int i = 0; i < tokens * out; ++i) {
      dy[i] = (y[i] - target[i]) / tokens;
      loss += 0.5 * tokens * dy[i] * dy[i];
    }
    layer.backward(ctx, {dy.data(), tokens, out}, saved, {}, nullptr);
  };
  const auto step = [&] {
    forward_and_backward();
    layer.select(ctx, TopK{k}, s);  // with a fixed support the selector is not asked
    adam.step(ctx, s, {.learning_rate = 0.01}, d);
    layer.apply(ctx, d);
    layer.clear(ctx);
  };

  // Warm-up: count how often each entry is among the k largest.
  std::vector<int> times(out * in);
  for (int n = 0; n < 10; ++n) {
    step();
    for (index_t e = 0; e < s.count(); ++e)
      ++times[s.indices()[e]];
  }
  std::printf("after the warm-up    loss %.2f, %d bytes for gradients\n", loss,
              static_cast<int>(layer.gradient_bytes()));

  // The k entries that were chosen most often, at rising positions.
  std::vector<stored_index_t> positions(out * in);
  for (int e = 0; e < out * in; ++e)
    positions[e] = e;
  std::stable_sort(positions.begin(), positions.end(), [&](int a, int b) { return times[a] > times[b]; });
  positions.resize(k);
  std::sort(positions.begin(), positions.end());
  SparseGradient<float> support(ctx, out, in, k);
  support.assign(ctx, positions, std::vector<float>(k));

  // One more dense core, to compare with.
  forward_and_backward();
  const MatrixView<float> core = layer.core(ctx);
  const std::vector<float> dense(core.data, core.data + core.size());
  layer.clear(ctx);

  layer.set_support(ctx, support);
  forward_and_backward();
  layer.select(ctx, TopK{k}, s);
  layer.clear(ctx);
  float difference = 0;
  for (index_t e = 0; e < s.count(); ++e)
    difference = std::max(difference, std::abs(s.values()[e] - dense[s.indices()[e]]));
  std::printf("sampled product: %d entries, equal to the dense core's to 1e-6: %s\n",
              static_cast<int>(s.count()), difference < 1e-6f ? "yes" : "no");

  for (int n = 0; n < 50; ++n)
    step();
  std::printf("on a fixed support   loss %.2f, %d bytes for gradients\n", loss,
              static_cast<int>(layer.gradient_bytes()));
}
