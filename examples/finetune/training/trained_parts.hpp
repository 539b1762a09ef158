// What of a model a run trains.
#pragma once

#include "models/model_passes.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// How the run type trains matrices.
MlpTraining matrix_training(const TrainOptions& options);

/// What of an encoder a run trains.
TrainedParts trained_parts(const TrainOptions& options);

}  // namespace sparsegrad::finetune
