#include "training/mlp/sparse_setup.hpp"

#include <algorithm>
#include <variant>

namespace sparsegrad::finetune {

std::string matrix_kind(std::string_view name) {
  if (name.ends_with(".intermediate.dense.weight")) return "up";
  if (name.ends_with(".output.dense.weight")) return "down";
  const std::string_view matrix = name.substr(0, name.rfind("_proj.weight"));
  return std::string(matrix.substr(matrix.rfind('.') + 1));
}

index_t largest_rank(const SideRecipe& rule, index_t extent) {
  if (const auto* random = std::get_if<SideRecipe::Random>(&rule.choice()))
    return random->rank == 0 ? extent : std::min(random->rank, extent);
  if (const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&rule.choice()))
    if (const auto* fixed = std::get_if<Truncation::Rank>(&hosvd->truncation.choice()))
      return std::min(fixed->rank, extent);
  return extent;
}

BasisRecipe make_recipe(const SparseOptions& options) {
  BasisRecipe recipe;
  recipe.scope = options.scope;
  recipe.normalize = options.normalize;
  recipe.sides = [sides = options.sides](const std::string& kind) { return sides.rules(kind); };
  return recipe;
}

}  // namespace sparsegrad::finetune
