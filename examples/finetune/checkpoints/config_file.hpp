// config.json of a Hugging Face folder.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "checkpoints/head_labels.hpp"
#include "models/encoder/model_config.hpp"

namespace sparsegrad::finetune {

/// Reads the encoder's fields of a BERT or RoBERTa config.json; the head's keep their defaults. Throws ModelError naming
/// `source` and the field that is missing, of the wrong type or out of range, or that asks for something the engine does
/// not have (another model_type or hidden_act, a decoder, pruned heads, quantized weights, code of the model's own, ...).
ModelConfig parse_encoder_config(const nlohmann::json& json, std::string_view source);
/// The same with the head's fields. Throws ModelError also for a head that the engine does not have.
ModelConfig parse_model_config(const nlohmann::json& json, std::string_view source);
/// Puts what the file says of its head into a configuration, as far as the engine has such heads.
void set_head(ModelConfig& config, const HeadLabels& labels);
/// A file's JSON. Throws ModelError naming the file. `keys`: those of the outermost object as the file has them, where one
/// may be there twice.
nlohmann::json read_json(const std::filesystem::path& path, std::vector<std::string>* keys = nullptr);
/// parse_encoder_config of a file.
ModelConfig read_encoder_config(const std::filesystem::path& config_json);

/// The config.json of a folder that BertForSequenceClassification or RobertaForSequenceClassification of transformers
/// reads, with weights of `dtype` (f32, bf16 or f16). Fields of `original` that the engine does not know are kept, but
/// for those that would say something untrue of the new folder: who wrote it, with which code, for which task.
nlohmann::json to_json(const ModelConfig& config, const nlohmann::json& original = nlohmann::json::object(),
                       io::DType dtype = io::DType::f32);

}  // namespace sparsegrad::finetune
