// Steps of a layer and of a group that must not allocate.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/io/side_recipe_text.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include "support/allocation_counter.hpp"
#include "support/layer_oracle.hpp"

namespace sparsegrad::test {

/// Fails where a step after `reserve` allocates; `met_before`: where it does so once it has met the
/// numbers of tokens.
template <class B, class T>
void steps_without_allocation(int threads, const std::string& out_rule, const std::string& in_rule,
                              bool met_before = false) {
  constexpr index_t out = 96;
  constexpr index_t in = 70;
  constexpr index_t most = 90;
  typename B::Context ctx(threads);
  oracle::Random random(4);
  std::vector<float> master(static_cast<std::size_t>(out * in), 0.1F);
  std::vector<T> weight(master.size());
  std::vector<T> bias(static_cast<std::size_t>(out), T(0.0F));
  std::vector<float> db(bias.size(), 0.0F);
  std::vector<T> x(static_cast<std::size_t>(most * in));
  std::vector<T> y(static_cast<std::size_t>(most * out));
  std::vector<T> dx(x.size());
  std::vector<T> keep(x.size());
  for (T& v : x)
    v = T(static_cast<float>(random.next()));
  const MatrixView<float> updated(master.data(), out, in);
  const auto make = [&] {
    if constexpr (is_low_precision<T>) {
      const MatrixView<T> rounded(weight.data(), out, in);
      return std::make_unique<SparseGradLinear<T, B>>(ctx, rounded, updated, bias.data());
    } else {
      return std::make_unique<SparseGradLinear<T, B>>(ctx, updated, bias.data());
    }
  };
  const auto made = make();
  SparseGradLinear<T, B>& layer = *made;
  GroupOptions options;
  options.density = 0.02;
  options.optimizer.overflow = Overflow::evict_smallest;
  SparseGradGroup<T, B> group(options);
  group.add(ctx, layer, "up");
  BasisRecipe recipe;
  recipe.sides = [&](const std::string&) {
    return SideRecipes{parse_side_recipe(out_rule), parse_side_recipe(in_rule)};
  };

  const auto step = [&](index_t tokens, bool collecting) {
    for (int micro = 0; micro < 2; ++micro) {
      MatrixView<T> kept;
      if (layer.kept_cols() > 0) kept = MatrixView<T>(keep.data(), tokens, layer.kept_cols());
      const auto saved = layer.forward(ctx, MatrixView<const T>(x.data(), tokens, in),
                                       MatrixView<T>(y.data(), tokens, out), kept);
      for (T& v : y)
        v = T(v * v - static_cast<float>(random.next()));
      layer.backward(ctx, MatrixView<const T>(y.data(), tokens, out), saved,
                     MatrixView<T>(dx.data(), tokens, in), db.data());
    }
    if (collecting) {
      group.end_collecting_step(ctx);
    } else {
      const double norm = std::sqrt(group.squared_norm(ctx));
      group.step(ctx, {.learning_rate = 1e-3, .weight_decay = 0.1, .grad_scale = std::min(1.0, 1 / norm)});
    }
  };

  group.collect(ctx, recipe);
  for (int i = 0; i < 3; ++i)
    step(most, true);
  group.refresh(ctx);
  group.reserve(ctx, most);
  const auto steps = [&] {
    for (const index_t tokens : {7, 90, 1, 33, 64, 90, 2})
      step(tokens, false);
  };
  if (met_before) steps();
  const AllocationMark mark;
  steps();
  const auto allocations = mark.count();
  INFO(B::name(), ", ", threads, " threads, out ", out_rule, ", in ", in_rule);
  CHECK(allocations == 0);
}

/// The same for weights of add_weight: contiguous and strided, [out, in] and [in, out], in float and in bfloat16.
/// `early`: reserved before the warm-up, of which the bases are not known then.
template <class B>
void engine_steps_without_allocation(int threads, const std::string& out_rule, const std::string& in_rule,
                                     bool early, bool met_before = false) {
  constexpr index_t out = 96;
  constexpr index_t in = 70;
  typename B::Context ctx(threads);
  oracle::Random random(4);
  GroupOptions options;
  options.density = 0.02;
  options.warmup_steps = 2;
  options.optimizer.overflow = Overflow::evict_smallest;
  options.recipe.sides = [&](const std::string&) {
    return SideRecipes{parse_side_recipe(out_rule), parse_side_recipe(in_rule)};
  };
  SparseGradGroup<float, B> group(options);
  std::vector<std::vector<float>> weights(4, std::vector<float>(static_cast<std::size_t>(out * in), 0.1F));
  std::vector<float> gradient(static_cast<std::size_t>(out * (in + 2)));
  std::vector<float> padded(gradient.size()), turned(gradient.size());
  std::vector<sparsegrad::bfloat16> low(gradient.size());
  group.add_weight(ctx, MatrixView<float>(weights[0].data(), out, in), "up",
                   {.gradient = MatrixView<const float>(gradient.data(), out, in)});
  group.add_weight(ctx, MatrixView<float>(weights[1].data(), out, in), "up");
  group.add_weight(ctx, MatrixView<float>(weights[2].data(), in, out), "up",
                   {.layout = WeightLayout::in_out});
  group.add_weight(ctx, MatrixView<float>(weights[3].data(), out, in), "up");
  const auto step = [&] {
    for (std::size_t e = 0; e < gradient.size(); ++e) {
      gradient[e] = padded[e] = turned[e] = static_cast<float>(random.next());
      low[e] = sparsegrad::bfloat16(gradient[e]);
    }
    group.set_gradient(1, MatrixView<const float>(padded.data(), out, in, in + 2));
    group.set_gradient(2, MatrixView<const float>(turned.data(), in, out));
    group.set_gradient(3, MatrixView<const sparsegrad::bfloat16>(low.data(), out, in));
    if (group.warming_up()) return (void)group.step(ctx, {});
    const double norm = std::sqrt(group.squared_norm(ctx));
    group.step(ctx, {.learning_rate = 1e-3, .weight_decay = 0.1, .grad_scale = std::min(1.0, 1 / norm)});
  };
  if (early) group.reserve(ctx);
  step();
  step();
  CHECK_FALSE(group.warming_up());
  if (!early) group.reserve(ctx);
  if (met_before) step();
  const AllocationMark mark;
  for (int i = 0; i < 5; ++i)
    step();
  const auto allocations = mark.count();
  INFO(B::name(), ", ", threads, " threads, out ", out_rule, ", in ", in_rule);
  CHECK(allocations == 0);
}

}  // namespace sparsegrad::test
