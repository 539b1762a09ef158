// Adapter: W stays as it is, and a small core Delta beside it is trained, y = x W^T + ((x U) Delta^T) V^T. The delta is
// what one stores and passes on; a plain weight comes back by merge. Here, as in LoRA-XS, V and U are the leading
// singular vectors of W itself.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/08_adapter.cpp -o adapter
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 24, out = 32, tokens = 64, rank = 16;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  std::vector<float> w(out * in), x(tokens * in), target(tokens * out), y(tokens * out), dy(tokens * out);
  for (auto* numbers : {&w, &x, &target})
    for (float& entry : *numbers)
      entry = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  const std::vector<float> w_before = w;
  const auto equal = [](const std::vector<float>& a, const std::vector<float>& b) {
    float difference = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
      difference = std::max(difference, std::abs(a[i] - b[i]));
    return difference < 1e-5f ? "yes" : "no";
  };

  HosvdAccumulator<float> sums(ctx, out, in);
  sums.add(ctx, {w.data(), out, in});
  const auto basis = TuckerBasis<float>::fit(ctx, sums, SideRecipe::hosvd(rank), SideRecipe::hosvd(rank));

  // A group trains Delta [rank, rank] as it would any weight; its gradient is the adapter's core.
  CoreAdapter<float> adapter(ctx, {w.data(), out, in}, nullptr, basis);
  SparseGradGroup<float> group({.density = 0.1});
  const auto delta = group.add_weight(ctx, adapter.delta(), "delta");
  const MatrixView<const float> X(x.data(), tokens, in);
  const MatrixView<float> Y(y.data(), tokens, out);
  for (int step = 0; step <= 60; ++step) {
    const auto saved = adapter.forward(ctx, X, Y);
    double loss = 0;
    for (int i = 0; i < tokens * out; ++i) {
      dy[i] = (y[i] - target[i]) / tokens;
      loss += 0.5 * tokens * dy[i] * dy[i];
    }
    if (step % 30 == 0) std::printf("step %2d  loss %.2f\n", step, loss);
    adapter.backward(ctx, {dy.data(), tokens, out}, saved, {}, nullptr);
    group.set_gradient(delta, adapter.core(ctx));
    group.step(ctx, {.learning_rate = 0.02});
    adapter.clear();
  }
  std::printf("W untouched: %s\n", w == w_before ? "yes" : "no");
  const SparseGradient<float> trained = adapter.export_delta(ctx);
  std::printf("to pass on: %d numbers, where W has %d\n", static_cast<int>(trained.count()), out * in);

  // Somewhere else, with the same weight and basis.
  std::vector<float> w2 = w_before;
  CoreAdapter<float> other(ctx, {w2.data(), out, in}, nullptr, basis);
  other.set_delta(ctx, trained);
  adapter.forward(ctx, X, Y);
  const std::vector<float> adapted = y;
  other.forward(ctx, X, Y);
  std::printf("the other's outputs are the same: %s\n", equal(y, adapted));
  other.merge(ctx, {w2.data(), out, in});
  other.forward(ctx, X, Y);
  std::printf("merged, a plain product, the same: %s; W changed: %s\n", equal(y, adapted),
              w2 != w_before ? "yes" : "no");
  other.unmerge(ctx, {w2.data(), out, in});
  std::printf("unmerged, W is the old one: %s\n", equal(w2, w_before));
}
