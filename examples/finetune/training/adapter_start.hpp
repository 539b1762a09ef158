#pragma once

#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The options of a run that goes on from the adapter `causal->start`: its matrices, blocks, rank and scale. Throws
/// ValueError for another run type than lora; ModelError, IoError or TokenizerError for a model or adapter that is none.
TrainOptions options_of_start(const TrainOptions& options);

}  // namespace sparsegrad::finetune
