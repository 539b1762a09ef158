// Definition of make_group, for the files that instantiate it.
#pragma once

#include <algorithm>

#include "replication/reference_defects.hpp"
#include "training/sparse_setup.hpp"

namespace sparsegrad::glue {

template <class T, class Backend>
std::unique_ptr<SparseGradGroup<T, Backend>> make_group(typename Backend::Context& ctx,
                                                        EncoderModel<T, Backend>& model,
                                                        const SparseOptions& options,
                                                        const Workload& workload,
                                                        bool share_gradient_memory) {
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
  auto group = std::make_unique<SparseGradGroup<T, Backend>>(group_options);
  if (options.defects.signed_selection) group->use_selector(SignedThreshold<Backend>{kept});
  index_t number = 0;
  for (auto& layer : model.mlp()) {
    layer.set_plan(ctx, parse_plan(options.plan), workload);
    group->add(ctx, layer, mlp_kind(number++));
  }
  return group;
}

}  // namespace sparsegrad::glue
