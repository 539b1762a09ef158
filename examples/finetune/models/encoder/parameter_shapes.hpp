#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/encoder/model_config.hpp"

namespace sparsegrad::glue {

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

/// All parameters of a model, in the order of their memory; with adapters of `lora_rank` > 0.
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config, index_t lora_rank);

/// "bert.encoder.layer.3." (or "roberta...") and what follows.
std::string layer_parameter(const ModelConfig& config, index_t layer, std::string_view rest);

/// The two linear maps between the first token's state and the logits, tanh between them.
struct HeadNames {
  std::string dense;   ///< BERT's pooler, RoBERTa's classifier.dense
  std::string output;  ///< BERT's classifier, RoBERTa's classifier.out_proj
};
HeadNames head_names(const ModelConfig& config);

}  // namespace sparsegrad::glue
