#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/encoder/model_config.hpp"
#include "models/parameters/parameter_shape.hpp"

namespace sparsegrad::finetune {

/// All parameters of an encoder with head, in the order of their memory; with adapters of `lora_rank` > 0.
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config, index_t lora_rank);

/// "bert.encoder.layer.3." (or "roberta...") and what follows.
std::string layer_parameter(const ModelConfig& config, index_t layer, std::string_view rest);

/// The two linear maps between the first token's state and the logits, tanh between them.
struct HeadNames {
  std::string dense;   ///< BERT's pooler, RoBERTa's classifier.dense
  std::string output;  ///< BERT's classifier, RoBERTa's classifier.out_proj
};
HeadNames head_names(const ModelConfig& config);

}  // namespace sparsegrad::finetune
