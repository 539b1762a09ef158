// What a run changed, as a delta.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoints/delta_file.hpp"

namespace sparsegrad::finetune {

/// A run's delta and the model that it belongs to.
struct RunDelta {
  Delta delta;
  std::vector<ParameterShape> shapes;  ///< of the model's parameters
  std::filesystem::path base;
  int by_entries = 0, by_factors = 0, whole = 0;  ///< how many parameters are in which form
  index_t model_bytes = 0;                        ///< of all parameters in float
};

/// What is other in `model` than in the model that the run began from: `base`, or where that is empty the one that
/// OUT/run.json beside OUT/model names. Each parameter is in the smallest form: its changed entries, all of them, or,
/// where the run has a rank that the difference is of but for rounding (as for run_adapter), factors of it. Entries
/// are exact, factors are but for that rounding. Throws ModelError: no log and no base, another model's extents, no
/// difference.
RunDelta run_delta(const std::filesystem::path& model, const std::filesystem::path& base);

}  // namespace sparsegrad::finetune
