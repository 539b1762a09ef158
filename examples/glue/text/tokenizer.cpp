#include "text/tokenizer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "text/wordpiece.hpp"

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
  const bool wordpiece_files =
      fs::exists(directory / "vocab.txt") || fs::exists(directory / "tokenizer.json");
  if (!wordpiece_files && fs::exists(directory / "vocab.json") && fs::exists(directory / "merges.txt")) {
    throw TokenizerError(directory.string() +
                         ": has vocab.json and merges.txt, a byte-level BPE tokenizer; expected a WordPiece "
                         "tokenizer (tokenizer.json or vocab.txt)");
  }
  return std::make_unique<WordPieceTokenizer>(WordPieceTokenizer::from_directory(directory));
}

}  // namespace sparsegrad::glue
