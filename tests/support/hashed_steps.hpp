// The bits of a layer's weights after some steps, as one number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <sparsegrad/sparsegrad.hpp>

#include "support/layer_oracle.hpp"

namespace sparsegrad::test {

inline std::uint64_t hash_of(const std::vector<float>& values) {  // FNV-1a over the bits
  std::uint64_t hash = 1469598103934665603ULL;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    for (int byte = 0; byte < 4; ++byte) {
      hash = (hash ^ ((bits >> (8 * byte)) & 255U)) * 1099511628211ULL;
    }
  }
  return hash;
}

template <class B>
std::uint64_t weight_after_20_steps(int threads, const SideRecipes& rules, index_t out = 3072,
                                    index_t in = 768) {
  constexpr index_t tokens = 70;
  typename B::Context ctx(threads, true);
  oracle::Random random(9);
  std::vector<float> weight(static_cast<std::size_t>(out * in));
  for (float& w : weight)
    w = static_cast<float>(0.05 * random.next());
  std::vector<float> bias(static_cast<std::size_t>(out), 0.0F);
  SparseGradLinear<float, B> layer(ctx, MatrixView<float>(weight.data(), out, in), bias.data());
  SparseGradGroup<float, B> group;
  group.add(ctx, layer, "up");
  BasisRecipe recipe;
  recipe.sides = [&](const std::string&) { return rules; };
  group.collect(ctx, recipe);
  std::vector<float> x(static_cast<std::size_t>(tokens * in));
  std::vector<float> y(static_cast<std::size_t>(tokens * out));
  std::vector<float> dx(x.size());
  std::vector<float> db(static_cast<std::size_t>(out), 0.0F);
  for (int step = 0; step < 22; ++step) {
    for (float& v : x)
      v = static_cast<float>(random.next());
    const auto saved = layer.forward(ctx, MatrixView<const float>(x.data(), tokens, in),
                                     MatrixView<float>(y.data(), tokens, out));
    for (float& v : y)
      v = v * v - 0.3F;
    layer.backward(ctx, MatrixView<const float>(y.data(), tokens, out), saved,
                   MatrixView<float>(dx.data(), tokens, in), db.data());
    if (step < 2) group.end_collecting_step(ctx);
    if (step == 1) group.refresh(ctx);
    if (step < 2) continue;
    const double norm = std::sqrt(group.squared_norm(ctx));
    group.step(ctx, {.learning_rate = 1e-3, .grad_scale = std::min(1.0, 1 / norm)});
  }
  weight.insert(weight.end(), dx.begin(), dx.end());
  weight.insert(weight.end(), db.begin(), db.end());
  return hash_of(weight);
}

}  // namespace sparsegrad::test
