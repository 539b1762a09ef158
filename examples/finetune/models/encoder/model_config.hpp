#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>

#include "models/model_error.hpp"

namespace sparsegrad::finetune {

/// The encoder's family: which names its tensors have, how positions are counted, and what the head is.
enum class ModelFamily { bert, roberta };
/// The "model_type" of config.json.
std::string_view to_string(ModelFamily family);

enum class ProblemType { classification, regression };

/// Extents and constants of an encoder with a head, as in a Hugging Face config.json.
struct ModelConfig {
  ModelFamily family = ModelFamily::bert;
  index_t vocab_size = 0;
  index_t max_positions = 0;
  index_t type_vocab_size = 2;
  index_t layers = 0;
  index_t hidden = 0;
  index_t heads = 0;
  index_t intermediate = 0;
  double layer_norm_eps = 1e-12;
  double hidden_dropout = 0.1;
  double attention_dropout = 0.1;
  double classifier_dropout = 0.1;
  double initializer_range = 0.02;
  int pad_token_id = 0;
  /// Outputs of the head; 1 with regression.
  index_t num_labels = 2;
  ProblemType problem = ProblemType::classification;
  std::vector<std::string> label_names;  ///< id2label; empty: LABEL_0, LABEL_1, ...

  index_t head_size() const { return hidden / heads; }
  /// Row of the position embeddings for a sequence's first token: RoBERTa counts from the padding index + 1.
  index_t first_position() const { return family == ModelFamily::roberta ? index_t{pad_token_id} + 1 : 0; }
  /// Tokens of the longest sequence that has positions.
  index_t longest_sequence() const { return max_positions - first_position(); }
  /// What a file puts before the encoder's names: "bert." or "roberta.".
  std::string prefix() const { return std::string(to_string(family)) + "."; }

  /// All dropout probabilities at once.
  void set_dropout(double probability);

  /// Throws ModelError naming the field whose value is impossible; `source` begins the text.
  void check(std::string_view source) const;
};

}  // namespace sparsegrad::finetune
