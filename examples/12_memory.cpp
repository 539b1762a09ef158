// Where the memory goes, and three ways to need less: one basis for all layers of a kind, x U kept for the backward pass
// in place of x, and an optimizer state for a few times the kept entries that evicts what it has no room for.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/12_memory.cpp -o memory
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace sparsegrad;

void print(const char* when, const GroupMemory& memory) {
  std::printf("%-12s gradients %6d  sparse %4d  optimizer %5d  bases %5d  collection %6d\n", when,
              static_cast<int>(memory.gradients), static_cast<int>(memory.sparse_gradients),
              static_cast<int>(memory.optimizer), static_cast<int>(memory.bases),
              static_cast<int>(memory.collection));
}

int main() {
  constexpr int width = 48, hidden = 192, tokens = 128, blocks = 2;
  backend::Cpu::Context ctx;
  std::mt19937 random;
  const auto fill = [&](std::vector<float>& numbers) {
    for (float& number : numbers)
      number = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  };
  std::vector<float> w(blocks * hidden * width), x(tokens * width), y(tokens * hidden), dy(tokens * hidden);

  // Only the side of the model's width is rotated, and cut to rank 12: a wide side's factor would be [hidden, hidden].
  const auto sides = [](const std::string&) {
    return SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(12)};
  };
  // Evicting, the default, keeps a state's memory as it is for good; go_dense would let it grow to
  // the dense size when many different entries were met.
  SparseGradGroup<float> group({.density = 0.01,
                                .warmup_steps = 2,
                                .recipe = {.scope = BasisScope::kind, .sides = sides},
                                .optimizer = {.overflow = Overflow::evict_smallest},
                                .capacity_factor = 4});
  std::vector<std::unique_ptr<SparseGradLinear<float>>> layers;  // the "up" matrices of two blocks
  for (int b = 0; b < blocks; ++b) {
    layers.push_back(std::make_unique<SparseGradLinear<float>>(
        ctx, MatrixView<float>(w.data() + b * hidden * width, hidden, width), nullptr));
    group.add(ctx, *layers.back(), "up");
  }

  for (int step = 0; step < 12; ++step) {
    for (const auto& layer : layers) {
      fill(x);
      fill(dy);
      // In the warm-up the layer needs x itself, and kept_cols() is 0.
      std::vector<float> keep(tokens * layer->kept_cols());
      const auto saved = layer->forward(ctx, {x.data(), tokens, width}, {y.data(), tokens, hidden},
                                        {keep.data(), tokens, layer->kept_cols()});
      if (saved.projected) std::fill(x.begin(), x.end(), 0.0f);  // x is not needed any more
      layer->backward(ctx, {dy.data(), tokens, hidden}, saved, {}, nullptr);
    }
    group.step(ctx, {.learning_rate = 0.001});
    if (step == 0) print("warm-up", group.memory(ctx));
  }
  print("training", group.memory(ctx));

  std::printf("both layers hold the same basis: %s\n",
              layers[0]->basis() == layers[1]->basis() ? "yes" : "no");
  std::printf("a layer keeps %d numbers of each token for its backward pass, not %d\n",
              static_cast<int>(layers[0]->kept_cols()), width);
  const SparseAdam<float>& adam = group.optimizer(0);
  std::printf("its optimizer state holds %d of the core's %d entries, %d of which a step keeps\n",
              static_cast<int>(adam.size()), static_cast<int>(adam.rows() * adam.cols()),
              static_cast<int>(group.kept(0)));
}
