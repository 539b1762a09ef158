// config.json of a decoder's Hugging Face folder.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "models/decoder/decoder_config.hpp"

namespace sparsegrad::finetune {

/// Reads the config.json of a LLaMA, Mistral or Qwen2 model as transformers 4 or 5 writes it. Throws ModelError naming
/// `source` and the field that is missing, of the wrong type or out of range, or that asks for something the engine does
/// not have (another model_type, another kind of positions, a window of attention, quantized weights, ...).
DecoderConfig parse_decoder_config(const nlohmann::json& json, std::string_view source);

/// The config.json of a folder that transformers reads, with weights of `dtype` (f32, bf16 or f16). Fields of `original`
/// that the engine does not know are kept, but for those that would say something untrue of the new folder.
nlohmann::json to_json(const DecoderConfig& config, const nlohmann::json& original = nlohmann::json::object(),
                       io::DType dtype = io::DType::f32);

}  // namespace sparsegrad::finetune
