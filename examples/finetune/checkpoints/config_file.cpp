#include "checkpoints/config_file.hpp"

#include <fstream>
#include <string>

namespace sparsegrad::glue {

namespace {

using nlohmann::json;

[[noreturn]] void fail(std::string_view source, const std::string& text) {
  throw ModelError(std::string(source) + ": " + text);
}

const json* find(const json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

index_t integer(const json& j, const char* key, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) fail(source, std::string("the field \"") + key + "\" is missing");
  if (!value->is_number_integer()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected an integer");
  }
  return value->get<index_t>();
}

index_t integer_or(const json& j, const char* key, index_t otherwise, std::string_view source) {
  return find(j, key) == nullptr ? otherwise : integer(j, key, source);
}

double number_or(const json& j, const char* key, double otherwise, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected a number");
  }
  return value->get<double>();
}

std::string text_or(const json& j, const char* key, const char* otherwise, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected a string");
  }
  return value->get<std::string>();
}

void require_text(const json& j, const char* key, const char* supported, std::string_view source) {
  const std::string found = text_or(j, key, supported, source);
  if (found != supported) {
    fail(source, std::string("the field \"") + key + "\" is \"" + found + "\", the engine knows \"" +
                     supported + "\" only");
  }
}

}  // namespace

ModelConfig parse_model_config(const json& j, std::string_view source) {
  if (!j.is_object()) fail(source, "expected a JSON object");
  const std::string family = text_or(j, "model_type", "bert", source);
  if (family != "bert" && family != "roberta") {
    fail(source, "the field \"model_type\" is \"" + family + "\", the engine knows \"bert\" and \"roberta\"");
  }
  require_text(j, "hidden_act", "gelu", source);
  require_text(j, "position_embedding_type", "absolute", source);
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
  if (const json* names = find(j, "id2label")) {
    if (!names->is_object() || names->empty()) {
      fail(source, "the field \"id2label\" is " + names->dump() + ", expected an object");
    }
    c.num_labels = static_cast<index_t>(names->size());
    for (index_t i = 0; i < c.num_labels; ++i) {
      const json* name = find(*names, std::to_string(i).c_str());
      if (name == nullptr || !name->is_string()) {
        fail(source, "\"id2label\" has no name for label " + std::to_string(i));
      }
      c.label_names.push_back(name->get<std::string>());
    }
  } else {
    c.num_labels = integer_or(j, "num_labels", c.num_labels, source);
  }
  const std::string problem = text_or(j, "problem_type", "", source);
  if (problem == "regression") {
    c.problem = ProblemType::regression;
  } else if (problem.empty()) {
    c.problem = c.num_labels == 1 ? ProblemType::regression : ProblemType::classification;
  } else if (problem != "single_label_classification") {
    fail(source, "the field \"problem_type\" is \"" + problem +
                     "\", the engine knows \"single_label_classification\" and \"regression\"");
  }
  c.check(source);
  return c;
}

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path.string(), "cannot be opened");
  // Copying and printing a value take a stack that grows with its depth.
  constexpr int most_nested = 256;
  const auto refuse_depth = [&](int depth, json::parse_event_t, const json&) {
    if (depth > most_nested)
      fail(path.string(), "expected values nested at most 256 deep, found deeper ones");
    return true;
  };
  try {
    return json::parse(file, refuse_depth);
  } catch (const json::exception& error) {
    fail(path.string(), error.what());
  }
}

ModelConfig read_model_config(const std::filesystem::path& config_json) {
  return parse_model_config(read_json(config_json), config_json.string());
}

json to_json(const ModelConfig& c, const json& original) {
  json j = original.is_object() ? original : json::object();
  j.erase("_name_or_path");
  j.erase("num_labels");  // transformers counts id2label
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
  j["torch_dtype"] = "float32";
  return j;
}

}  // namespace sparsegrad::glue
