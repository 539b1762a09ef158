// The bits of a layer's weights after some steps, as one number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
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

template <class B, class T = float>
std::uint64_t weight_after_20_steps(int threads, const SideRecipes& rules, index_t out = 3072,
                                    index_t in = 768) {
  constexpr index_t tokens = 70;
  typename B::Context ctx(threads, true);
  oracle::Random random(9);
  std::vector<float> weight(static_cast<std::size_t>(out * in));
  for (float& w : weight)
    w = static_cast<float>(0.05 * random.next());
  std::vector<T> bias(static_cast<std::size_t>(out), T(0.0F));
  std::vector<T> rounded(is_low_precision<T> ? weight.size() : 0);
  const MatrixView<float> master(weight.data(), out, in);
  const auto make = [&] {
    if constexpr (is_low_precision<T>) {
      return std::make_unique<SparseGradLinear<T, B>>(ctx, MatrixView<T>(rounded.data(), out, in), master,
                                                      bias.data());
    } else {
      return std::make_unique<SparseGradLinear<T, B>>(ctx, master, bias.data());
    }
  };
  const auto made = make();
  SparseGradLinear<T, B>& layer = *made;
  SparseGradGroup<T, B> group;
  group.add(ctx, layer, "up");
  BasisRecipe recipe;
  recipe.sides = [&](const std::string&) { return rules; };
  group.collect(ctx, recipe);
  std::vector<T> x(static_cast<std::size_t>(tokens * in));
  std::vector<T> y(static_cast<std::size_t>(tokens * out));
  std::vector<T> dx(x.size());
  std::vector<float> db(static_cast<std::size_t>(out), 0.0F);
  for (int step = 0; step < 22; ++step) {
    for (T& v : x)
      v = T(static_cast<float>(random.next()));
    const auto saved =
        layer.forward(ctx, MatrixView<const T>(x.data(), tokens, in), MatrixView<T>(y.data(), tokens, out));
    for (T& v : y)
      v = T(v * v - 0.3F);
    layer.backward(ctx, MatrixView<const T>(y.data(), tokens, out), saved,
                   MatrixView<T>(dx.data(), tokens, in), db.data());
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
