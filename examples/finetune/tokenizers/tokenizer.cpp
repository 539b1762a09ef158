#include "tokenizers/tokenizer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/tokenizer_files.hpp"
#include "tokenizers/wordpiece.hpp"

namespace sparsegrad::glue {

PairLengths truncate_longest_first(std::size_t length_a, std::size_t length_b, std::size_t limit) {
  if (length_a + length_b <= limit) return {length_a, length_b};
  std::size_t shorter = std::min(length_a, length_b);
  std::size_t longer = limit - std::min(limit, shorter);
  if (longer < shorter) {
    shorter = limit / 2;
    longer = limit - shorter;
  }
  return length_a > length_b ? PairLengths{longer, shorter} : PairLengths{shorter, longer};
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  tokenizer_files::require_directory(directory);
  const auto has = [&](const char* name) {
    std::error_code no_error;
    return fs::exists(directory / name, no_error);
  };
  bool byte_bpe = false;
  if (has("tokenizer.json")) {
    const fs::path file = directory / "tokenizer.json";
    const std::string type = tokenizer_files::model_type(tokenizer_files::read_json(file), file);
    byte_bpe = type == "BPE";
    if (!byte_bpe && type != "WordPiece")
      throw TokenizerError(file.string() + ": expected a WordPiece or BPE model, found " + type);
  } else if (!has("vocab.txt")) {
    byte_bpe = has("vocab.json") || has("merges.txt");
    if (!byte_bpe) {
      throw TokenizerError(directory.string() +
                           ": expected tokenizer.json, vocab.txt, or vocab.json with merges.txt, found none");
    }
  }
  if (byte_bpe) return std::make_unique<ByteBpeTokenizer>(ByteBpeTokenizer::from_directory(directory));
  return std::make_unique<WordPieceTokenizer>(WordPieceTokenizer::from_directory(directory));
}

}  // namespace sparsegrad::glue
