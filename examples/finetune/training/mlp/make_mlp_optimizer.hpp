// Chooses the optimizer of the MLP matrices.
#pragma once

#include <memory>
#include <vector>

#include "training/mlp/dense_mlp.hpp"
#include "training/mlp/sparse_mlp.hpp"

namespace sparsegrad::finetune {

/// Of the run type. `targets` are the matrices that have gradients, none with run types whose matrices are constants;
/// `workload` is what the cost model assumes of a step.
template <class T, class Backend>
std::unique_ptr<MlpOptimizer<T, Backend>> make_mlp_optimizer(
    typename Backend::Context& ctx, const TrainOptions& options,
    const std::vector<MlpTarget<T, Backend>>& targets, const Workload& workload) {
  if (targets.empty()) return std::make_unique<MlpOptimizer<T, Backend>>();
  if (!options.steps_sparsely())
    return std::make_unique<DenseMlp<T, Backend>>(ctx, targets, options.weight_decay);
  return std::make_unique<SparseMlp<T, Backend>>(ctx, targets, options.sparse, options.weight_decay, workload,
                                                 options.shares_gradient_memory());
}

}  // namespace sparsegrad::finetune
