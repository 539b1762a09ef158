#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizers/causal_tokenizer.hpp"

namespace sparsegrad::finetune {

/// A SentencePiece model with what a folder says beside it.
struct PieceFiles {
  std::string path;   ///< of the model, for messages
  std::string model;  ///< the bytes of tokenizer.model
  std::vector<AddedToken> added;
  CausalSettings settings;  ///< with all ids that the model or the folder names
};

/// The tokenizer's files of a Hugging Face folder, one of the two.
struct CausalFolder {
  std::string path;  ///< of the file, for messages
  std::optional<CausalBpeParts> bpe;
  std::optional<PieceFiles> pieces;
};

/// Reads them. Throws as load_causal_tokenizer does, but for what making the tokenizer refuses.
CausalFolder read_causal_folder(const std::filesystem::path& directory);

}  // namespace sparsegrad::finetune
