// What is looked at in a run's folder before the run begins.
#pragma once

#include "training/options.hpp"
#include "training/output/output_folder.hpp"

namespace sparsegrad::finetune {

/// Throws ValueError where a run with these options would replace another one's model or checkpoint, and the options do not
/// say that it may.
void require_nothing_lost(const OutputPaths& output, const TrainOptions& options);

/// Throws ModelError, with both numbers, where the disk has less room than the run's files take: the best model, at an
/// interrupt the model as it was, and states of `state_bytes`. `parameters`: of the model.
void require_room(const OutputPaths& output, const TrainOptions& options, index_t parameters,
                  index_t state_bytes);

}  // namespace sparsegrad::finetune
