#include "checkpoints/config_file.hpp"

#include <fstream>
#include <string>
#include <utility>

#include "checkpoints/json_fields.hpp"
#include "models/model_error.hpp"
#include "tokenizers/open_file.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;
using namespace fields;

/// Fields that change what the tensors mean, or what the layers compute, in ways that the engine does not have.
void require_plain_encoder(const json& j, std::string_view source) {
  constexpr std::pair<const char*, const char*> foreign[] = {
      {"is_decoder",
       "the engine has encoders alone, whose tokens see all others: set it to false if the model is one"},
      {"add_cross_attention", "the engine has encoders alone: set it to false if the model is one"},
      {"pruned_heads", "the engine has layers of equal width alone: use the model as it was before pruning"},
      {"per_layer_config", "the engine has equal layers alone"},
      {"quantization_config", "the engine reads floating-point tensors: save the model dequantized"},
      {"compression_config", "the engine reads floating-point tensors: save the model decompressed"},
  };
  for (const auto& [key, cure] : foreign)
    refuse_field(j, key, cure, source);
  refuse_own_code(j, "a plain BERT or RoBERTa", source);
}

/// What a cross-encoder of Sentence Transformers puts behind the outputs: nothing, after training on their own loss.
void set_identity_activation(json& j) {
  constexpr const char* identity = "torch.nn.modules.linear.Identity";
  if (j.contains("sbert_ce_default_activation_function"))
    j["sbert_ce_default_activation_function"] = identity;
  if (const json* field = find(j, "sentence_transformers"); field != nullptr && field->is_object()) {
    if (field->contains("activation_fn")) j["sentence_transformers"]["activation_fn"] = identity;
  }
}

}  // namespace

ModelConfig parse_encoder_config(const json& j, std::string_view source) {
  if (!j.is_object()) fail(source, "expected a JSON object");
  const std::string family = text_or(j, "model_type", "bert", source);
  if (family != "bert" && family != "roberta") {
    fail(source, "the field \"model_type\" is \"" + family + "\", the engine knows \"bert\" and \"roberta\"");
  }
  // transformers' gelu_python is the same function, written out.
  if (text_or(j, "hidden_act", "gelu", source) != "gelu_python")
    require_text(j, "hidden_act", "gelu", source);
  require_text(j, "position_embedding_type", "absolute", source);
  require_plain_encoder(j, source);
  ModelConfig c;
  c.family = family == "roberta" ? ModelFamily::roberta : ModelFamily::bert;
  c.vocab_size = integer(j, "vocab_size", source);
  c.max_positions = integer(j, "max_position_embeddings", source);
  c.type_vocab_size = integer_or(j, "type_vocab_size", 2, source);
  c.layers = integer(j, "num_hidden_layers", source);
  c.hidden = integer(j, "hidden_size", source);
  c.heads = integer(j, "num_attention_heads", source);
  c.intermediate = integer(j, "intermediate_size", source);
  c.layer_norm_eps = number_or(j, "layer_norm_eps", c.layer_norm_eps, source);
  c.hidden_dropout = number_or(j, "hidden_dropout_prob", c.hidden_dropout, source);
  c.attention_dropout = number_or(j, "attention_probs_dropout_prob", c.attention_dropout, source);
  c.classifier_dropout = number_or(j, "classifier_dropout", c.hidden_dropout, source);
  c.initializer_range = number_or(j, "initializer_range", c.initializer_range, source);
  c.pad_token_id =
      static_cast<int>(integer_or(j, "pad_token_id", c.family == ModelFamily::roberta ? 1 : 0, source));
  c.check(source);
  return c;
}

ModelConfig parse_model_config(const json& j, std::string_view source) {
  ModelConfig c = parse_encoder_config(j, source);
  const HeadLabels labels = parse_head_labels(j, source);
  set_head(c, labels);
  if (const std::string kind = labels.unknown_kind(c.num_labels); !kind.empty()) {
    fail(source,
         "the head is for " + kind +
             ", the engine knows \"problem_type\" \"single_label_classification\" and \"regression\"");
  }
  c.check(source);
  return c;
}

void set_head(ModelConfig& c, const HeadLabels& labels) {
  if (labels.count > 0) c.num_labels = labels.count;
  c.label_names = labels.names;
  if (labels.problem == "regression" || (labels.problem.empty() && c.num_labels == 1))
    c.problem = ProblemType::regression;
}

json read_json(const std::filesystem::path& path, std::vector<std::string>* keys) {
  std::error_code no_error;
  if (std::filesystem::is_directory(path, no_error)) fail(path.string(), "is a folder, expected a JSON file");
  std::ifstream file = open_file<ModelError>(path);
  // Copying and printing a value take a stack that grows with its depth.
  constexpr int most_nested = 256;
  const auto refuse_depth = [&](int depth, json::parse_event_t event, const json& value) {
    if (depth > most_nested)
      fail(path.string(), "expected values nested at most 256 deep, found deeper ones");
    if (keys != nullptr && depth == 1 && event == json::parse_event_t::key)
      keys->push_back(value.get<std::string>());
    return true;
  };
  try {
    return json::parse(file, refuse_depth);
  } catch (const json::exception& error) {
    fail(path.string(), std::string("is not valid JSON: ") + error.what());
  }
}

ModelConfig read_encoder_config(const std::filesystem::path& config_json) {
  return parse_encoder_config(read_json(config_json), config_json.string());
}

json to_json(const ModelConfig& c, const json& original, io::DType dtype) {
  json j = inherited(original);
  j["architectures"] = {c.family == ModelFamily::roberta ? "RobertaForSequenceClassification"
                                                         : "BertForSequenceClassification"};
  j["model_type"] = to_string(c.family);
  j["hidden_act"] = "gelu";
  j["position_embedding_type"] = "absolute";
  j["vocab_size"] = c.vocab_size;
  j["max_position_embeddings"] = c.max_positions;
  j["type_vocab_size"] = c.type_vocab_size;
  j["num_hidden_layers"] = c.layers;
  j["hidden_size"] = c.hidden;
  j["num_attention_heads"] = c.heads;
  j["intermediate_size"] = c.intermediate;
  j["layer_norm_eps"] = c.layer_norm_eps;
  j["hidden_dropout_prob"] = c.hidden_dropout;
  j["attention_probs_dropout_prob"] = c.attention_dropout;
  // null, as transformers writes it, is hidden_dropout_prob.
  if (find(j, "classifier_dropout") != nullptr || c.classifier_dropout != c.hidden_dropout)
    j["classifier_dropout"] = c.classifier_dropout;
  j["initializer_range"] = c.initializer_range;
  j["pad_token_id"] = c.pad_token_id;
  j["problem_type"] = c.problem == ProblemType::regression ? "regression" : "single_label_classification";
  json names = json::object();
  json ids = json::object();
  for (index_t i = 0; i < c.num_labels; ++i) {
    const std::string name =
        c.label_names.empty() ? "LABEL_" + std::to_string(i) : c.label_names[static_cast<std::size_t>(i)];
    names[std::to_string(i)] = name;
    ids[name] = i;
  }
  j["id2label"] = names;
  j["label2id"] = ids;
  set_identity_activation(j);
  if (j.contains("dtype")) j["dtype"] = dtype_name(dtype);
  j["torch_dtype"] = dtype_name(dtype);  // which versions before "dtype" read
  return j;
}

}  // namespace sparsegrad::finetune
