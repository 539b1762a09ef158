// What models of all kinds are asked for, and the memory that they own.
#pragma once

#include <cstdint>

#include "models/mlp/matrix_choice.hpp"
#include "models/mlp/mlp_training.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// What of a model is trained.
struct TrainedParts {
  MlpTraining mlp;
  ParameterRule dense = {};    ///< dense parameters with a gradient; none given: all
  MatrixChoice matrices = {};  ///< of a decoder: the matrices that `mlp` speaks of; the others are constants
};

struct ForwardOptions {
  bool training = false;          ///< keeps what backward needs, and drops out
  std::uint64_t dropout_key = 0;  ///< the masks of this pass: a new number for each pass
};

/// Bytes owned, by category.
struct ModelMemory {
  index_t weights = 0;
  index_t dense_gradients = 0;
  index_t mlp_gradients = 0;  ///< owned by the SparseGradLinear layers; their bases are not counted
  index_t activations = 0;
};

}  // namespace sparsegrad::finetune
