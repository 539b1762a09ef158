#include "training/mlp/sparse_setup.hpp"

namespace sparsegrad::finetune {

BasisRecipe make_recipe(const SparseOptions& options) {
  BasisRecipe recipe;
  recipe.scope = options.scope;
  recipe.normalize = options.normalize;
  recipe.sides = [sides = options.sides](const std::string& kind) { return sides.rules(kind); };
  return recipe;
}

}  // namespace sparsegrad::finetune
