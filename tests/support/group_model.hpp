// Three layers in double on backend::Reference with gradients from a generator, for tests of groups.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "layer_oracle.hpp"

namespace sparsegrad::test {

using B = backend::Reference;
using Layer = SparseGradLinear<double, B>;
using Group = SparseGradGroup<double, B>;
using Weights = std::vector<std::vector<double>>;

/// Two "up" layers [8, 6] and one "down" layer [6, 8].
struct Model {
  explicit Model(LinearOptions options = {}, std::uint64_t seed = 1) : random(seed) {
    for (int i = 0; i < 3; ++i) {
      const int out = i == 2 ? 6 : 8;
      const int in = 14 - out;
      weights.push_back(random.matrix(out, in).data);
      layers.push_back(
          std::make_unique<Layer>(ctx, MatrixView<double>(weights.back().data(), out, in), nullptr, options));
    }
  }
  void add_to(Group& group) {
    for (std::size_t i = 0; i < 3; ++i)
      group.add(ctx, *layers[i], i == 2 ? "down" : "up");
  }
  oracle::Matrix gradient(std::size_t i) {
    return random.matrix(static_cast<int>(layers[i]->out_extent()), static_cast<int>(layers[i]->in_extent()));
  }
  void add(std::size_t i, const oracle::Matrix& g) {
    layers[i]->add_gradient(ctx, MatrixView<const double>(g.data.data(), g.rows, g.cols));
  }
  oracle::Matrix add_gradient(std::size_t i) {
    oracle::Matrix g = gradient(i);
    add(i, g);
    return g;
  }
  void add_gradients() {
    for (std::size_t i = 0; i < 3; ++i)
      add_gradient(i);
  }

  B::Context ctx;
  oracle::Random random;
  Weights weights;
  std::vector<std::unique_ptr<Layer>> layers;
};

/// Three given entries of layer i's core.
inline SparseGradient<double, B> support_of(Model& model, std::size_t i) {
  const auto& basis = model.layers[i]->basis();
  SparseGradient<double, B> support(model.ctx, basis->rows(), basis->cols(), 3);
  support.assign(model.ctx, std::vector<stored_index_t>{1, 5, 11}, std::vector<double>(3));
  return support;
}

inline BasisRecipe recipe_of(const SideRecipe& out, const SideRecipe& in,
                             BasisScope scope = BasisScope::kind) {
  BasisRecipe recipe;
  recipe.scope = scope;
  recipe.sides = [=](const std::string&) { return SideRecipes{out, in}; };
  return recipe;
}

inline GroupOptions keeping(index_t entries) {
  GroupOptions options;
  options.entries = entries;
  return options;
}

/// The text of the Error that f throws.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace sparsegrad::test
