// DCT-AdamW's idea (ICLR 2026) with a Hadamard transform Q, which stores one sign a column: of G Q the r columns of
// largest norm move, chosen anew in every step (methods/largest_columns.hpp). Q stays, so an entry's moments need no
// transport: a state with room for one choice keeps those of the columns that are chosen again, exactly.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/17_largest_columns.cpp -o largest_columns
#include "methods/largest_columns.hpp"

#include <sparsegrad/sparsegrad.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using namespace sparsegrad;

int main() {
  constexpr int out = 48, in = 64, r = 8;
  backend::Cpu::Context ctx;
  std::vector<float> w(out * in), target(out * in), dw(out * in), core(out * in);
  const auto basis =
      TuckerBasis<float>::from_recipes(ctx, out, in, SideRecipe::identity(), SideRecipe::hadamard());
  for (int e = 0; e < out * in; ++e)  // what is to be learned has large and small columns in Q
    core[e] = std::sin(float(e)) * 4 / float(1 + e % in);
  basis->expand(ctx, {core.data(), out, in}, 0, {target.data(), out, in});

  SparseGradGroup<float> group(
      {.entries = out * r, .optimizer = {.overflow = Overflow::evict_smallest}, .capacity_factor = 1});
  group.add_weight(ctx, {w.data(), out, in}, "w", {.gradient = {dw.data(), out, in}});
  group.set_basis(ctx, 0, basis);
  group.use_selector(methods::LargestColumns{r});

  for (int step = 0; step <= 200; ++step) {
    float loss = 0;
    for (int i = 0; i < out * in; ++i) {
      dw[i] = w[i] - target[i];
      loss += 0.5f * dw[i] * dw[i];
    }
    const GroupReport report = group.step(ctx, {.learning_rate = 0.02});
    if (step % 50 == 0)
      std::printf("step %3d  loss %6.2f  columns %d of %d, %d of them newly chosen\n", step, loss, r, in,
                  step == 0 ? r : static_cast<int>(report.evicted) / out);
  }
}
