#pragma once

#include <memory>
#include <string>

#include "checkpoints/gguf_file.hpp"
#include "tokenizers/causal_tokenizer.hpp"
#include "tokenizers/sentencepiece.hpp"

namespace sparsegrad::finetune {

/// The tokenizer and the chat template that a GGUF file carries ("tokenizer.ggml.*"): byte-level BPE (model "gpt2") with a
/// pattern that `known_pre_names` has. SentencePiece (model "llama") where the program has its library.
/// Tokens of the types control and unknown are special, those that users defined are
/// found in texts before these are split. Throws IoError naming the key: one that is missing or of another type, a model
/// or pattern that is not known, lengths that differ; and what CausalBpeTokenizer refuses.
std::unique_ptr<CausalTokenizer> gguf_tokenizer(const GgufFile& file);

/// "tokenizer.ggml." and the name: a key of a tokenizer's metadata.
std::string gguf_tokenizer_key(const char* name);

/// The pieces of a file whose tokenizer is SentencePiece's; their texts lie in the file's memory. Throws IoError naming
/// the key: one that is missing, of another type or length, a type of pieces that is not known.
PieceModel gguf_pieces(const GgufFile& file);

}  // namespace sparsegrad::finetune
