#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/gguf_blocks.hpp"
#include "training/causal_source.hpp"

namespace sparsegrad::finetune {

/// Writes a whole model as one GGUF file for llama.cpp: metadata, tokenizer and chat template, and the weights with what
/// is put on them. Matrices and the embeddings' table are of `type` (F32, F16, BF16 or Q8_0), norms and biases F32; a
/// matrix whose rows are no whole blocks is F16. What the source has in that type already is copied as it is. Returns what
/// is to be told of it, a line each. Throws ModelError, IoError or ValueError.
std::vector<std::string> write_gguf_model(const CausalSource& source, const GgufType& type,
                                          const std::filesystem::path& file);

}  // namespace sparsegrad::finetune
