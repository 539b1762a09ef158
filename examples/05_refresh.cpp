// Gradients move on during training, so a basis grows old. Collect again while training goes on, fit a new basis, and
// carry the optimizer's moments over to it; see what that does to the energy in the largest entries.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/05_refresh.cpp -o refresh
#include <sparsegrad/sparsegrad.hpp>

#include <cstdio>
#include <random>
#include <string>
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

  const BasisRecipe recipe{.sides = [](const std::string&) {
    return SideRecipes{SideRecipe::hosvd(16), SideRecipe::hosvd(16)};
  }};
  SparseGradGroup<float> group({.entries = k, .warmup_steps = 8, .recipe = recipe});
  const auto weight = group.add_weight(ctx, {w.data(), out, in}, "up");

  for (int step = 0; step < 68; ++step) {
    const float age = step < 8 ? 0 : static_cast<float>(step - 8) / 60;
    if (step == 30) group.collect(ctx, recipe);  // from here on a step trains, and feeds the accumulators
    group.set_gradient(weight, gradient(age));
    if (step >= 8 && step % 10 == 8) {
      const EnergyFractions energy = group.basis(weight)->energy(ctx, {dw.data(), out, in}, k);
      std::printf("step %2d  energy in the core %.2f, in its %d largest entries %.2f\n", step,
                  energy.kept_block, k, energy.basis_top_k);
    }
    group.step(ctx, {.learning_rate = 0.001});
    if (step == 37) {
      const RebaseReport moments = group.refresh(ctx, MomentsPolicy::transport)[0];
      const BasisReport& fit = group.basis(weight)->report();
      std::printf("refresh  from %d gradients, of which the new basis keeps %.2f or more;\n",
                  static_cast<int>(fit.gradients), fit.joint_lower_bound());
      std::printf("         %.2f of the moments' energy lies outside of it\n", moments.lost_to_basis);
    }
  }
}
