// What each kind of basis makes of the same gradients: the ranks it keeps, what it stores, and how much of the energy
// of one more gradient its 1 % largest entries hold. That last number decides how good a sparse step can be.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/04_bases.cpp -o bases
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/io/side_recipe_text.hpp>
#include <sparsegrad/tucker_basis.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

int main() {
  using namespace sparsegrad;
  constexpr int out = 128, in = 96, directions = 12;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };

  // Gradients as networks have them: few directions in common, of falling strength, and noise.
  std::vector<float> left(directions * out), right(directions * in), dw(out * in);
  for (float& entry : left)
    entry = uniform();
  for (float& entry : right)
    entry = uniform();
  const auto next_gradient = [&] {
    for (float& entry : dw)
      entry = 0.02f * uniform();
    for (int l = 0; l < directions; ++l) {
      const float strength = uniform() / static_cast<float>(1 + l);
      for (int o = 0; o < out; ++o)
        for (int i = 0; i < in; ++i)
          dw[o * in + i] += strength * left[l * out + o] * right[l * in + i];
    }
    return MatrixView<const float>(dw.data(), out, in);
  };

  HosvdAccumulator<float> sums(ctx, out, in);
  for (int n = 0; n < 20; ++n)
    sums.add(ctx, next_gradient());
  const MatrixView<const float> next = next_gradient();
  const index_t one_percent = out * in / 100;

  std::printf("out side   in side    core      bytes    energy kept  next gradient's top 1 %%\n");
  const char* recipes[][2] = {
      {"identity", "identity"}, {"full", "full"},     {"identity", "64"},       {"8", "8"},
      {"0.99", "0.99"},         {"random", "random"}, {"hadamard", "hadamard"}, {"hadamard", "identity"}};
  for (const auto& [out_recipe, in_recipe] : recipes) {
    const auto basis =
        TuckerBasis<float>::fit(ctx, sums, parse_side_recipe(out_recipe), parse_side_recipe(in_recipe));
    const EnergyFractions energy = basis->energy(ctx, next, one_percent);
    std::printf("%-10s %-10s %3d x %-3d %6d   %12.2f  %16.2f\n", out_recipe, in_recipe,
                static_cast<int>(basis->rows()), static_cast<int>(basis->cols()),
                static_cast<int>(basis->bytes()), basis->report().joint_lower_bound(), energy.basis_top_k);
  }

  // The spectrum that truncations read: each singular direction's fraction of the out side's energy.
  const auto full = TuckerBasis<float>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::identity());
  std::printf("out side's spectrum:");
  for (std::size_t l = 0; l < 6; ++l)
    std::printf(" %.3f", full->report().out.spectrum[l] / full->report().total_energy);
  std::printf(" ...\n");
}
