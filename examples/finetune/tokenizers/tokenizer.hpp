#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sparsegrad::finetune {

/// What a tokenizer throws: files that are missing or malformed, text that is not UTF-8, lengths that cannot
/// be met.
class TokenizerError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One sentence or pair as a model takes it: `ids` and `type_ids` have the same length, special tokens
/// included, no padding.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> type_ids;
  std::size_t special = 0;  ///< how many of the ids the model wants around the text
};

/// Text to ids. Implementations are immutable after construction and may be used from several threads at
/// once.
class Tokenizer {
 public:
  static constexpr std::size_t default_max_length = 512;

  virtual ~Tokenizer() = default;

  /// Ids of `text` (UTF-8) without the special tokens that a model wants around it.
  /// Throws TokenizerError with the byte position when `text` is not UTF-8.
  virtual std::vector<std::int32_t> tokenize_ids(std::string_view text) const = 0;

  /// Ids of a sentence, or of a pair, with the special tokens, cut "longest first" to at most `max_length`
  /// ids. Throws TokenizerError when `max_length` is below the number of special tokens, or on text that is
  /// not UTF-8.
  virtual Encoding encode(std::string_view a, std::optional<std::string_view> b = std::nullopt,
                          std::size_t max_length = default_max_length) const = 0;

  virtual std::int32_t pad_id() const = 0;
  /// What a word becomes that the vocabulary has no pieces for.
  virtual std::int32_t unk_id() const = 0;
  /// The token of `id`. Throws TokenizerError when no token has it.
  virtual const std::string& token_of(std::int32_t id) const = 0;

  /// Rows that an embedding table needs: the largest id plus one.
  virtual std::size_t vocab_size() const = 0;

 protected:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = default;
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
};

/// How a folder's files were read.
struct TokenizerReport {
  std::string kind;                ///< "WordPiece" or "byte-level BPE"
  std::vector<std::string> files;  ///< names of those that were read
  std::vector<std::string> notes;  ///< for people: contradictions and what was not followed, a line each
  std::optional<double> model_max_length;  ///< of tokenizer_config.json
};

/// Names of the files that a tokenizer's folder may have. A saved model gets copies of them.
std::span<const char* const> tokenizer_file_names();

/// The tokenizer of a Hugging Face model directory: WordPiece or byte-level BPE, as tokenizer.json says or
/// else as there are vocab.txt, or vocab.json and merges.txt. Where both are there, tokenizer_config.json's
/// class and config.json's family say which. Every file of `tokenizer_file_names` is read, or the report's
/// notes say that it is not. Throws TokenizerError naming the files looked for when the directory has none
/// that is known.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory,
                                          TokenizerReport* report = nullptr);

/// Lengths to which a pair of `length_a` and `length_b` tokens is cut so that together they have at most
/// `limit`: the longer side gives way first, then both share equally, the odd token going to the side that
/// was longer (b if equal).
struct PairLengths {
  std::size_t a = 0;
  std::size_t b = 0;
};
PairLengths truncate_longest_first(std::size_t length_a, std::size_t length_b, std::size_t limit);

}  // namespace sparsegrad::finetune
