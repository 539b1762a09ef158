#pragma once

#include <string>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// What a parameter is to the optimizers.
enum class ParameterKind {
  dense,       ///< trained by a dense optimizer
  mlp_matrix,  ///< a weight of an MLP: its gradient, if any, belongs to its SparseGradLinear
  adapter,     ///< LoRA's A and B: dense, in no file
};

/// A parameter before it has memory.
struct ParameterShape {
  std::string name;
  index_t rows = 0;
  index_t cols = 0;
  ParameterKind kind = ParameterKind::dense;
  bool joined = false;  ///< follows its predecessor without a gap

  /// Stored with one dimension: biases and LayerNorm.
  bool is_vector() const { return name.ends_with(".bias") || name.find("LayerNorm.") != std::string::npos; }
  /// An operand of matrix products, unlike vectors and the embeddings' tables.
  bool is_factor() const { return !is_vector() && name.find("embeddings.") == std::string::npos; }
};

}  // namespace sparsegrad::finetune
