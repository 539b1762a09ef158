#pragma once

#include <filesystem>

#include "checkpoints/gguf_file.hpp"

namespace sparsegrad::finetune {

/// Writes the files of the tokenizer that a GGUF file carries (see gguf_tokenizer): what transformers, and
/// load_causal_tokenizer, read as the same tokenizer, with the chat template. Of byte-level BPE these are tokenizer.json
/// and tokenizer_config.json, of SentencePiece tokenizer.model and tokenizer_config.json. Makes the folder. Throws
/// IoError naming the key, as gguf_tokenizer.
void write_tokenizer_files(const GgufFile& file, const std::filesystem::path& folder);

}  // namespace sparsegrad::finetune
