#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/causal_tokenizer.hpp"

// SentencePiece models (LLaMA 1 and 2, Mistral, TinyLlama), read by the library libsentencepiece where the program was
// built with it.

namespace sparsegrad::finetune {

/// Whether the program was built with the library.
bool has_sentencepiece();

/// Types of pieces, as in sentencepiece_model.proto and in GGUF files.
enum class PieceType : int { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// One piece of a vocabulary; its place is its id.
struct Piece {
  std::string_view text;  ///< U+2581 stands for a space
  float score = 0;
  PieceType type = PieceType::normal;
};

/// A model of byte-pair encoding as the bytes of a tokenizer.model: with byte fallback where there are pieces of type
/// byte, without normalisation.
std::string sentencepiece_model(const std::vector<Piece>& pieces, bool add_dummy_prefix);

/// What a model's bytes hold, as far as `sentencepiece_model` writes it.
struct PieceModel {
  std::vector<Piece> pieces;  ///< their texts lie in the model's bytes
  bool add_dummy_prefix = true;
};
/// Reads the bytes of a tokenizer.model, without the library. Throws TokenizerError beginning with `name`: malformed
/// bytes; a model that is not of byte-pair encoding, or that normalises texts, of which LLaMA's know nothing.
PieceModel read_piece_model(std::string_view model, const std::string& name);

/// The tokenizer of a tokenizer.model's bytes. A text's first word gets a space before it where the model says so; what
/// follows a special token gets none, as in transformers with "legacy": false. `added` are tokens beside the model's pieces,
/// found first. Settings without ids get the model's. Throws TokenizerError beginning with `name`: bytes that are no model,
/// or a program that was built without the library.
std::unique_ptr<CausalTokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::vector<AddedToken>& added,
                                                         CausalSettings settings, const std::string& name);

}  // namespace sparsegrad::finetune
