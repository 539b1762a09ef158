#include "models/encoder/model_config.hpp"

#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/core/number.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

namespace sparsegrad::finetune {

namespace {

[[noreturn]] void fail(std::string_view source, const std::string& text) {
  throw ModelError(std::string(source) + ": " + text);
}

}  // namespace

std::string_view to_string(ModelFamily family) {
  return family == ModelFamily::roberta ? "roberta" : "bert";
}

void ModelConfig::set_dropout(double probability) {
  hidden_dropout = attention_dropout = classifier_dropout = probability;
}

void ModelConfig::check(std::string_view source) const {
  constexpr index_t largest = std::numeric_limits<std::int32_t>::max();
  const auto positive = [&](const char* key, index_t value) {
    if (value < 1 || value > largest) {
      fail(source, std::string("the field \"") + key + "\" is " + std::to_string(value) +
                       ", expected a number from 1 to " + std::to_string(largest));
    }
  };
  positive("vocab_size", vocab_size);
  positive("max_position_embeddings", max_positions);
  positive("type_vocab_size", type_vocab_size);
  positive("num_hidden_layers", layers);
  positive("hidden_size", hidden);
  positive("num_attention_heads", heads);
  positive("intermediate_size", intermediate);
  positive("num_labels", num_labels);
  if (family == ModelFamily::roberta && (pad_token_id < 0 || longest_sequence() < 1)) {
    fail(source, "\"pad_token_id\" is " + std::to_string(pad_token_id) +
                     ", expected >= 0 and below \"max_position_embeddings\" " +
                     std::to_string(max_positions) + " - 1, for positions start behind it");
  }
  if (hidden % heads != 0) {
    fail(source, "\"hidden_size\" is " + std::to_string(hidden) +
                     ", not a multiple of \"num_attention_heads\" " + std::to_string(heads));
  }
  const auto probability = [&](const char* key, double value) {
    if (!(value >= 0 && value < 1)) {
      fail(source, std::string("the field \"") + key + "\" is " + number_text(value) + ", expected [0, 1)");
    }
  };
  probability("hidden_dropout_prob", hidden_dropout);
  probability("attention_probs_dropout_prob", attention_dropout);
  probability("classifier_dropout", classifier_dropout);
  if (!(layer_norm_eps > 0) || !sparsegrad::is_finite(layer_norm_eps)) {
    fail(source, "the field \"layer_norm_eps\" is " + number_text(layer_norm_eps) + ", expected > 0");
  }
  if (!(initializer_range >= 0) || !sparsegrad::is_finite(initializer_range)) {
    fail(source, "the field \"initializer_range\" is " + number_text(initializer_range) + ", expected >= 0");
  }
  if (problem == ProblemType::regression && num_labels != 1) {
    fail(source, "regression has " + std::to_string(num_labels) + " outputs, expected 1");
  }
  if (!label_names.empty() && static_cast<index_t>(label_names.size()) != num_labels) {
    fail(source, "\"id2label\" has " + std::to_string(label_names.size()) + " names for " +
                     std::to_string(num_labels) + " labels");
  }
}

}  // namespace sparsegrad::finetune
