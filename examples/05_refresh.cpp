// Gradients move on during training, so a basis grows old. Collect again while training goes on, fit a new basis, and
// carry the optimizer's moments over to it; see what that does to the energy in the largest entries.
//
// SparseGradGroup::collect and refresh do the same for all layers of a model; by hand one sees the reports.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/05_refresh.cpp -o refresh
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <cstdio>
#include <memory>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int out = 48, in = 32, k = 30;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> w(out * in), dw(out * in), early(3 * (out + in)), late(3 * (out + in));
  for (auto* directions : {&early, &late})
    for (float& entry : *directions)
      entry = uniform();

  // Stands for forward and backward: three directions, which turn from the early ones to the late ones.
  const auto gradient = [&](float age) {
    for (float& entry : dw)
      entry = 0.05f * uniform();
    for (int l = 0; l < 3; ++l) {
      const float strength = 1 + uniform();
      const auto at = [&](int n) {
        return (1 - age) * early[l * (out + in) + n] + age * late[l * (out + in) + n];
      };
      for (int o = 0; o < out; ++o)
        for (int i = 0; i < in; ++i)
          dw[o * in + i] += strength * at(o) * at(out + i);
    }
    return MatrixView<const float>(dw.data(), out, in);
  };

  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  const auto sums = std::make_shared<HosvdAccumulator<float>>(ctx, out, in);
  for (int n = 0; n < 8; ++n)
    sums->add(ctx, gradient(0));
  const SideRecipe rank = SideRecipe::hosvd(16);
  layer.set_basis(ctx, TuckerBasis<float>::fit(ctx, *sums, rank, rank));
  SparseAdam<float> adam(ctx, 16, 16, {.capacity = 80, .overflow = Overflow::evict_smallest});
  SparseGradient<float> s(ctx, 16, 16, k), d(ctx, 16, 16, k);

  for (int step = 0; step < 60; ++step) {
    const float age = static_cast<float>(step) / 60;
    if (step % 10 == 0) {
      const EnergyFractions share = layer.basis()->energy(ctx, gradient(age), k);
      std::printf("step %2d  energy in the core %.2f, in its %d largest entries %.2f\n", step,
                  share.kept_block, k, share.basis_top_k);
    }
    if (step == 22) {  // from here on steps also feed the accumulator
      sums->clear(ctx);
      layer.collect(ctx, sums);
    }
    layer.add_gradient(ctx, gradient(age));
    layer.select(ctx, TopK{k}, s);
    adam.step(ctx, s, {.learning_rate = 0.001}, d);
    layer.apply(ctx, d);
    layer.clear(ctx);
    if (step == 29) {
      layer.collect(ctx, nullptr);
      const auto next = TuckerBasis<float>::fit(ctx, *sums, rank, rank);
      const RebaseReport report = adam.rebase(ctx, *layer.basis(), *next, MomentsPolicy::transport);
      layer.set_basis(ctx, next);
      std::printf("refresh  from %d gradients, of which the new basis keeps %.2f or more\n",
                  static_cast<int>(next->report().gradients), next->report().joint_lower_bound());
      std::printf(
          "         of the moments' energy %.2f lies outside of it, %.2f did not fit into %d entries\n",
          report.lost_to_basis, report.lost_to_capacity, static_cast<int>(report.entries));
    }
  }
}
