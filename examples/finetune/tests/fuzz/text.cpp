// libFuzzer target: any text is encoded by both kinds of tokenizers, or refused by a TokenizerError where it is not UTF-8.
// The input: a text and the one that makes a pair of it.
#include <cstddef>
#include <cstdint>
#include <string>

#include "support/fuzz.hpp"
#include "tokenizer_checks.hpp"
#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/split_patterns.hpp"
#include "tokenizers/utf8.hpp"
#include "tokenizers/wordpiece.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto wordpiece =
      WordPieceTokenizer::from_vocab(SPARSEGRAD_TEST_DIR "/golden/glue/small_vocab.txt");
  static const auto byte_bpe = ByteBpeTokenizer::from_directory(SPARSEGRAD_TEST_DIR "/golden/glue/small_bpe");
  const std::string_view input = fuzz::text_of(data, size);
  const auto parts = fuzz::sections(input, 2);
  const bool is_text = !find_invalid_utf8(parts[0]) && !find_invalid_utf8(parts[1]);
  const fuzz::MemoryBound bound(size);
  for (const Tokenizer* tokenizer :
       {static_cast<const Tokenizer*>(&wordpiece), static_cast<const Tokenizer*>(&byte_bpe)}) {
    test::check_encodings(*tokenizer, parts[0]);
    try {
      const Encoding one = tokenizer->encode(parts[0], parts[1], 64);
      fuzz::require(is_text, "text that is not UTF-8 is taken");
      fuzz::require(one.ids == tokenizer->encode(parts[0], parts[1], 64).ids, "a text has two encodings");
    } catch (const TokenizerError& error) {  // refused: as it should be
      fuzz::require(!is_text, std::string("UTF-8 is refused: ") + error.what());
    }
  }
  if (!is_text) return 0;
  std::size_t together = 0;
  for (const std::string_view word : split_words(parts[0], SplitPattern::gpt2)) {
    fuzz::require(!word.empty() && word.data() == parts[0].data() + together,
                  "words do not follow each other");
    together += word.size();
  }
  fuzz::require(together == parts[0].size(), "words leave a part of the text out");
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_text);
}
