// config.json of a Hugging Face folder.
#pragma once

#include <filesystem>
#include <string_view>

#include <nlohmann/json.hpp>

#include "models/encoder/model_config.hpp"

namespace sparsegrad::glue {

/// Reads the fields of a BERT or RoBERTa config.json. Throws ModelError naming `source` and the field that is missing, of
/// the wrong type or out of range, or a feature that the engine does not have (model_type, hidden_act,
/// position_embedding_type).
ModelConfig parse_model_config(const nlohmann::json& json, std::string_view source);
/// A file's JSON. Throws ModelError naming the file.
nlohmann::json read_json(const std::filesystem::path& path);
ModelConfig read_model_config(const std::filesystem::path& config_json);

/// The config.json that transformers' BertForSequenceClassification or RobertaForSequenceClassification reads. Fields of `original` that the
/// engine does not know are kept.
nlohmann::json to_json(const ModelConfig& config, const nlohmann::json& original = nlohmann::json::object());

}  // namespace sparsegrad::glue
