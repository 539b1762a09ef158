#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "checkpoints/decoder_folder.hpp"
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
  /// The tensors that none of `all` parameters takes. Throws ModelError where one is of a block: the model is another one
  /// then.
  DecoderLoadReport unused(std::span<const ParameterShape> all) const;

 private:
  const CausalSource& source_;
  std::optional<ModelWeights> folder_;
};

/// What check_weights found.
struct CheckedWeights {
  std::size_t tensors = 0;   ///< that the configuration asks for
  DecoderLoadReport report;  ///< those that it has no place for
};
/// Reads all weights of a model's files, one tensor in memory at a time. Throws ModelError with what is wrong with each:
/// one that is missing, there twice, of another shape or of a type that cannot be read, with NaN or Inf, or of a block
/// and without a place in it.
CheckedWeights check_weights(const CausalSource& source);

}  // namespace sparsegrad::finetune
