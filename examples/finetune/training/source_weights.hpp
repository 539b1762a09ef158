#pragma once

#include <optional>
#include <vector>

#include "checkpoints/model_weights.hpp"
#include "models/parameters/parameter_shape.hpp"
#include "training/causal_source.hpp"

namespace sparsegrad::finetune {

/// The parameters of a language model's files one by one, with what is put on them: for what needs no model in memory.
class SourceWeights {
 public:
  /// Opens the files of weights. `source` must outlive this object. Throws ModelError or IoError.
  explicit SourceWeights(const CausalSource& source);

  /// A parameter's values as Hugging Face has them, [rows, cols] or [cols]. Throws ModelError or IoError naming the
  /// tensor: one that is missing, of another shape or of a type that cannot be read, with NaN or Inf; and what the
  /// source's change refuses.
  std::vector<float> values(const ParameterShape& parameter) const;

 private:
  const CausalSource& source_;
  std::optional<ModelWeights> folder_;
};

}  // namespace sparsegrad::finetune
