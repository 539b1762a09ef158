// Micro-batches, a loss scale, steps left out on overflow, and clipping by the norm of all cores: what mixed precision
// training asks for.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/07_accumulate_clip.cpp -o accumulate_clip
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int in = 24, out = 32, tokens = 64, micro_batches = 4, part = tokens / micro_batches;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> w(out * in), w_whole(out * in), x(tokens * in), target(tokens * out), y(tokens * out),
      dy(tokens * out);
  for (auto* numbers : {&x, &target})
    for (float& entry : *numbers)
      entry = 4 * uniform();

  // Two layers of the same numbers: one sees the tokens in four parts and a scaled loss, the other all at once.
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr),
      whole(ctx, {w_whole.data(), out, in}, nullptr);
  const GroupOptions options{.density = 0.1, .non_finite = NonFinite::skip};
  SparseGradGroup<float> group(options), whole_group(options);
  group.add(ctx, layer, "up");
  whole_group.add(ctx, whole, "up");
  const auto basis =
      TuckerBasis<float>::from_recipes(ctx, out, in, SideRecipe::random(), SideRecipe::random());
  group.set_basis(ctx, 0, basis);
  whole_group.set_basis(ctx, 0, basis);

  /// Forward and backward of the tokens [first, first + count), of the loss scale * |Y - target|^2 / 2.
  const auto pass = [&](SparseGradLinear<float>& of, int first, int count, float scale) {
    const auto saved = of.forward(ctx, {x.data() + first * in, count, in}, {y.data(), count, out});
    for (int i = 0; i < count * out; ++i)
      dy[i] = scale * (y[i] - target[first * out + i]);
    of.backward(ctx, {dy.data(), count, out}, saved, {}, nullptr);
  };

  float scale = 0x1p126f;  // far too large: the first products overflow
  for (int step = 0; step < 8; ++step) {
    for (int m = 0; m < micro_batches; ++m)
      pass(layer, m * part, part, scale);
    const GroupReport report =
        group.step(ctx, {.learning_rate = 0.01, .grad_scale = 1 / scale, .clip_norm = 270});
    std::printf("step %d  loss scale 2^%-3d ", step, std::ilogb(scale));
    if (report.skipped) {  // the gradient held Inf; weights and moments are as they were
      std::printf("overflow, left out\n");
      scale *= 0x1p-6f;
      continue;
    }
    std::printf("norm %.0f%s\n", report.core_norm, report.core_norm > 270 ? ", clipped to 270" : "");
    pass(whole, 0, tokens, 1);
    whole_group.step(ctx, {.learning_rate = 0.01, .clip_norm = 270});
  }
  float difference = 0;
  for (int i = 0; i < out * in; ++i)
    difference = std::max(difference, std::abs(w[i] - w_whole[i]));
  std::printf("same weight as whole batches without a scale, to 1e-5: %s\n",
              difference < 1e-5f ? "yes" : "no");
}
