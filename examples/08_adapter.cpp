// Adapter: W stays as it is, and a sparse core Delta beside it is trained, y = x W^T + ((x U) Delta^T) V^T. The delta
// is what one stores and passes on; a plain weight comes back by merge.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/08_adapter.cpp -o adapter
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 24, out = 32, tokens = 64, k = 20;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  std::vector<float> w(out * in), x(tokens * in), target(tokens * out), y(tokens * out), dy(tokens * out);
  for (auto* numbers : {&w, &x, &target})
    for (float& entry : *numbers)
      entry = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  const std::vector<float> w_before = w;
  const auto forward = [&](SparseGradLinear<float>& of) {
    return of.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
  };
  const auto equal = [](const std::vector<float>& a, const std::vector<float>& b) {
    float difference = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
      difference = std::max(difference, std::abs(a[i] - b[i]));
    return difference < 1e-5f ? "yes" : "no";
  };
  const auto loss_gradient = [&] {
    double loss = 0;
    for (int i = 0; i < tokens * out; ++i) {
      dy[i] = (y[i] - target[i]) / tokens;
      loss += 0.5 * (y[i] - target[i]) * (y[i] - target[i]) / tokens;
    }
    return loss;
  };

  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr, {.mode = UpdateMode::adapter});
  const auto sums = std::make_shared<HosvdAccumulator<float>>(ctx, out, in);
  layer.collect(ctx, sums);
  std::shared_ptr<const TuckerBasis<float>> basis;
  SparseAdam<float> adam(ctx, out, in);
  SparseGradient<float> s(ctx, out, in, k), d(ctx, out, in, k);
  for (int step = 0; step <= 60; ++step) {
    const auto saved = forward(layer);
    const double loss = loss_gradient();
    if (step % 30 == 0) std::printf("step %2d  loss %.2f\n", step, loss);
    layer.backward(ctx, {dy.data(), tokens, out}, saved, {}, nullptr);
    layer.select(ctx, TopK{k}, s);
    layer.clear(ctx);
    if (step == 0) {  // the first gradient makes the basis
      layer.collect(ctx, nullptr);
      basis = TuckerBasis<float>::fit(ctx, *sums, SideRecipe::hosvd(), SideRecipe::hosvd());
      layer.set_basis(ctx, basis);
      continue;
    }
    adam.step(ctx, s, {.learning_rate = 0.02}, d);
    layer.apply(ctx, d);
  }
  std::printf("W untouched: %s\n", w == w_before ? "yes" : "no");

  const SparseGradient<float> delta = layer.export_delta(ctx);
  std::printf("delta: fewer than half of %d entries: %s\n", out * in,
              delta.count() < out * in / 2 ? "yes" : "no");

  // Somewhere else, with the same weight and basis.
  std::vector<float> w2 = w_before;
  SparseGradLinear<float> other(ctx, {w2.data(), out, in}, nullptr, {.mode = UpdateMode::adapter});
  other.set_basis(ctx, basis);
  other.import_delta(ctx, delta);
  forward(layer);
  const std::vector<float> adapted = y;
  forward(other);
  std::printf("imported adapter gives the same outputs: %s\n", equal(y, adapted));
  other.merge(ctx);
  forward(other);
  std::printf("merged, a plain product, the same: %s; W changed: %s\n", equal(y, adapted),
              w2 != w ? "yes" : "no");
  other.unmerge(ctx);
  std::printf("unmerged, W is the old one: %s\n", equal(w2, w_before));
}
