// After a while the entries that matter are known. With a fixed support only the gradient at these is computed, by
// sampled products, and the layer has no memory for a dense gradient any more.
//
// (Where the dense core costs nothing, as with an engine's own dW, the selector FixedSupport does the same.)
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/09_fixed_support.cpp -o fixed_support
#include <sparsegrad/extras/sampled_gradient.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
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
  const MatrixView<const float> X(x.data(), tokens, in), dY(dy.data(), tokens, out);
  const MatrixView<float> Y(y.data(), tokens, out);
  const auto loss_and_dy = [&] {
    double loss = 0;
    for (int i = 0; i < tokens * out; ++i) {
      dy[i] = (y[i] - target[i]) / tokens;
      loss += 0.5 * tokens * dy[i] * dy[i];
    }
    return loss;
  };

  // Ten steps with top-k count how often each entry is among the k largest.
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  SparseGradGroup<float> group({.entries = k, .capacity_factor = 0});
  group.add(ctx, layer, "up");
  group.set_basis(
      ctx, 0, TuckerBasis<float>::from_recipes(ctx, out, in, SideRecipe::identity(), SideRecipe::random()));
  std::vector<int> times(out * in);
  double loss = 0;
  for (int n = 0; n < 10; ++n) {
    const auto saved = layer.forward(ctx, X, Y);
    loss = loss_and_dy();
    layer.backward(ctx, dY, saved, {}, nullptr);
    group.step(ctx, {.learning_rate = 0.01});
    for (index_t e = 0; e < k; ++e)
      ++times[group.gradient(0).indices()[e]];
  }
  std::printf("top-k           loss %.2f, %5d bytes for gradients\n", loss,
              static_cast<int>(layer.gradient_bytes()));

  // The k that were chosen most often, at rising positions.
  std::vector<stored_index_t> positions(out * in);
  std::iota(positions.begin(), positions.end(), 0);
  std::stable_sort(positions.begin(), positions.end(), [&](int a, int b) { return times[a] > times[b]; });
  positions.resize(k);
  std::sort(positions.begin(), positions.end());
  SparseGradient<float> support(ctx, out, in, k);
  support.assign(ctx, positions, std::vector<float>(k));

  // The same weight in another layer and group; the moments go on.
  FixedSupportLinear<float> fixed(ctx, layer.trained_weight(), nullptr, layer.basis(), support);
  SparseGradGroup<float> fixed_group(group.options());
  fixed_group.add(ctx, fixed, "up");
  fixed_group.restore(ctx, group.state(ctx));

  const auto saved = layer.forward(ctx, X, Y);
  loss_and_dy();
  layer.backward(ctx, dY, saved, {}, nullptr);
  fixed.backward(ctx, dY, X, {}, nullptr);
  fixed_group.select(ctx, 0);
  float difference = 0;
  for (index_t e = 0; e < k; ++e)
    difference = std::max(difference,
                          std::abs(fixed_group.gradient(0).values()[e] - layer.core(ctx).data[positions[e]]));
  fixed_group.clear(ctx);
  std::printf("sampled products: %d entries, equal to the dense core's to 1e-6: %s\n", k,
              difference < 1e-6f ? "yes" : "no");

  for (int n = 0; n < 50; ++n) {
    fixed.forward(ctx, X, Y);
    loss = loss_and_dy();
    fixed.backward(ctx, dY, X, {}, nullptr);
    fixed_group.step(ctx, {.learning_rate = 0.01});
  }
  std::printf("fixed support   loss %.2f, %5d bytes for gradients\n", loss,
              static_cast<int>(fixed.gradient().bytes()));
}
