#include "train/sparse_setup.hpp"

#include <algorithm>

#include "train/reference_defects.hpp"

namespace sparsegrad::glue {

std::unique_ptr<SparseGroup> make_group(GlueContext& ctx, Model& model, const SparseOptions& options,
                                        const Workload& workload, bool share_gradient_memory) {
  const index_t matrix = model.config().hidden * model.config().intermediate;
  GroupOptions group_options;
  group_options.entries = kept_entries(options, matrix);
  group_options.capacity_factor = options.state_capacity;
  group_options.adam.semantics = options.adam;
  group_options.adam.overflow = options.overflow;
  group_options.share_gradient_memory = share_gradient_memory;
  const index_t kept = group_options.entries;
  // Of gradients that are as often negative as positive the signed threshold keeps twice as many.
  if (options.defects.signed_selection) group_options.entries = std::min(3 * kept, matrix);
  auto group = std::make_unique<SparseGroup>(group_options);
  if (options.defects.signed_selection) group->use_selector(SignedThreshold{kept});
  index_t number = 0;
  for (Model::MlpLayer& layer : model.mlp()) {
    layer.set_plan(ctx, parse_plan(options.plan), workload);
    group->add(ctx, layer, mlp_kind(number++));
  }
  return group;
}

BasisRecipe make_recipe(const SparseOptions& options) {
  BasisRecipe recipe;
  recipe.scope = options.scope;
  recipe.normalize = options.normalize;
  recipe.rules = [sides = options.sides](const std::string& kind) { return sides.rules(kind); };
  return recipe;
}

}  // namespace sparsegrad::glue
