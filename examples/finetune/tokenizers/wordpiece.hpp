#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune {

/// How text is normalised and split, named as in tokenizer_config.json. The defaults are those of
/// bert-base-uncased.
struct WordPieceOptions {
  bool do_lower_case = true;
  std::optional<bool> strip_accents;  ///< unset: as do_lower_case
  bool tokenize_chinese_chars = true;
  bool clean_text = true;  ///< drop control characters, make every kind of white space a space
  std::size_t max_input_chars_per_word = 100;
  std::string continuing_subword_prefix = "##";
  std::string unk_token = "[UNK]";
  std::string cls_token = "[CLS]";
  std::string sep_token = "[SEP]";
  std::string pad_token = "[PAD]";
  std::string mask_token = "[MASK]";
};

/// BERT's WordPiece, id by id as the `tokenizers` package computes it (transformers' BertTokenizerFast, the
/// default there).
class WordPieceTokenizer final : public Tokenizer {
 public:
  /// Reads tokenizer.json or else vocab.txt, and what there is of tokenizer_config.json,
  /// special_tokens_map.json and added_tokens.json.
  /// Throws TokenizerError: no such file, not JSON, another kind of tokenizer, special tokens missing, ids
  /// used twice.
  static WordPieceTokenizer from_directory(const std::filesystem::path& directory,
                                           TokenizerReport* report = nullptr);

  /// Reads a vocabulary of one token a line; the line's number, from 0, is the token's id. A blank line is an
  /// id without a token; of a repeated token the last line counts. Throws TokenizerError: no such file, empty
  /// file, special tokens missing, not UTF-8.
  static WordPieceTokenizer from_vocab(const std::filesystem::path& file,
                                       const WordPieceOptions& options = {});

  /// Reads a tokenizer.json alone.
  static WordPieceTokenizer from_tokenizer_json(const std::filesystem::path& file);

  /// Pieces with their ids as given. `added` are matched first; the five special tokens are added to it where
  /// it lacks them.
  WordPieceTokenizer(std::vector<std::pair<std::string, std::int32_t>> vocabulary,
                     const WordPieceOptions& options, std::vector<AddedToken> added = {});

  std::vector<std::int32_t> tokenize_ids(std::string_view text) const override;
  Encoding encode(std::string_view a, std::optional<std::string_view> b = std::nullopt,
                  std::size_t max_length = default_max_length) const override;

  std::int32_t pad_id() const override;
  std::size_t vocab_size() const override;
  std::int32_t cls_id() const;
  std::int32_t sep_id() const;
  std::int32_t unk_id() const override;
  std::optional<std::int32_t> mask_id() const;  ///< nothing where the vocabulary has no such token
  const WordPieceOptions& options() const;

  /// The id of `token` as it stands in the vocabulary or among the added tokens; nothing when it is in
  /// neither.
  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// The token of `id`. Throws TokenizerError when no token has it.
  const std::string& token_of(std::int32_t id) const override;

  /// `text` after normalisation (cleaning, spaces around Chinese characters, accents, case), before
  /// splitting.
  std::string normalize(std::string_view text) const;

 private:
  struct Impl;
  /// `pair_types`: a pair's second sentence is of type 1, else of type 0.
  WordPieceTokenizer(std::vector<std::pair<std::string, std::int32_t>> vocabulary,
                     const WordPieceOptions& options, std::vector<AddedToken> added, bool pair_types);

  std::shared_ptr<const Impl> impl_;
};

}  // namespace sparsegrad::finetune
