// The metadata of a GGUF file of a whole model, from a Hugging Face folder or another GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/gguf_file.hpp"
#include "checkpoints/gguf_writer.hpp"
#include "models/decoder/decoder_config.hpp"

namespace sparsegrad::finetune {

/// Puts in architecture and extents as llama.cpp's convert_hf_to_gguf.py writes them. A scaling of LLaMA-3's is the
/// tensor of `gguf_rope_factors`.
void put_gguf_config(const DecoderConfig& config, const std::string& name, GgufWriter& writer);

/// Puts in the tokenizer of a folder and its chat template ("tokenizer.*"), as gguf_tokenizer reads them. There are
/// `rows` tokens, as the model has rows of embeddings: those without a name are "[PAD7]", unused. `ends`: ids that end an
/// answer, of which a file names three. Returns what the file cannot say, a line each. Throws TokenizerError: another
/// kind of tokenizer than GGUF files know.
std::vector<std::string> put_gguf_tokenizer(const std::filesystem::path& folder, index_t rows,
                                            std::span<const std::int32_t> ends, GgufWriter& writer);

/// Puts in all of another file's metadata but what its tensors' types and its own layout say.
void put_gguf_metadata(const GgufFile& file, GgufWriter& writer);

/// Puts in what a file of mostly this type says of itself.
void put_gguf_file_type(const GgufType& type, GgufWriter& writer);

}  // namespace sparsegrad::finetune
