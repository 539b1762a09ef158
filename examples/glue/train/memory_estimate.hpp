// What a run will need, before it takes it.
#pragma once

#include "engine/model_config.hpp"
#include "train/memory_account.hpp"
#include "train/options.hpp"

namespace sparsegrad::glue {

/// From the model's extents and the run's options: weights, gradients and dense optimizer states to a few per cent;
/// activations of a batch whose sequences all have `longest` tokens, so at most; bases and sparse states left out.
MemoryParts estimate_memory(const ModelConfig& config, const TrainOptions& options, index_t longest);

/// Throws ModelError when weights, gradients and optimizer alone exceed `available` bytes (0: not known), saying how much
/// is needed.
void require_memory(const MemoryParts& estimate, index_t available);

}  // namespace sparsegrad::glue
