#pragma once

#include <filesystem>

#include "checkpoints/adapter_files.hpp"
#include "models/decoder/decoder_config.hpp"

namespace sparsegrad::finetune {

/// Reads a LoRA that was trained elsewhere, for a model of this configuration: peft's folder (or its
/// adapter_model.safetensors), or a GGUF file of llama.cpp's.
///
/// Of peft's: the scale is lora_alpha / r, with "use_rslora" lora_alpha / sqrt(r). Matrices of different ranks
/// ("rank_pattern", "alpha_pattern") are padded with zeros to the largest one, and a scale of their own goes into B. A
/// matrix without an adapter in a block where others have one is one whose B is zero.
///
/// Throws ModelError or IoError saying what was found and what to do: no adapter, another kind than LoRA, DoRA, biases,
/// whole modules ("modules_to_save"), matrices other than q, k, v, o, gate, up and down, those that start by changing
/// the model's weights (PiSSA, OLoRA, LoftQ), another model's extents, NaN or Inf.
Adapter read_adapter(const std::filesystem::path& path, const DecoderConfig& config);

}  // namespace sparsegrad::finetune
