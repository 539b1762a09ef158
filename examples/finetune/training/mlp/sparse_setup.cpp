#include "training/mlp/sparse_setup.hpp"

namespace sparsegrad::finetune {

std::string matrix_kind(std::string_view name) {
  if (name.ends_with(".intermediate.dense.weight")) return "up";
  if (name.ends_with(".output.dense.weight")) return "down";
  const std::string_view matrix = name.substr(0, name.rfind("_proj.weight"));
  return std::string(matrix.substr(matrix.rfind('.') + 1));
}

BasisRecipe make_recipe(const SparseOptions& options) {
  BasisRecipe recipe;
  recipe.scope = options.scope;
  recipe.normalize = options.normalize;
  recipe.sides = [sides = options.sides](const std::string& kind) { return sides.rules(kind); };
  return recipe;
}

}  // namespace sparsegrad::finetune
