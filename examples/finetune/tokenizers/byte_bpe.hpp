#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/bpe_merges.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune {

/// Named as in tokenizer_config.json. The defaults are those of roberta-base.
struct ByteBpeOptions {
  bool add_prefix_space = false;  ///< a first word is as one with a space before it
  std::string unk_token = "<unk>";
  std::string cls_token = "<s>";
  std::string sep_token = "</s>";
  std::string pad_token = "<pad>";
  std::string mask_token = "<mask>";
};

/// RoBERTa's byte-level BPE, id by id as the `tokenizers` package computes it (transformers'
/// RobertaTokenizer). The unknown token stands for no text: every byte has a token.
///
/// Where no file says otherwise, the mask token takes the white space before it. So it is in the
/// tokenizer.json of roberta-base and in transformers 4; transformers 5 has it so only where a file says so.
class ByteBpeTokenizer final : public Tokenizer {
 public:
  using Merges = finetune::Merges;

  /// Reads tokenizer.json or else vocab.json and merges.txt, and what there is of tokenizer_config.json,
  /// special_tokens_map.json and added_tokens.json.
  /// Throws TokenizerError: no such file, not JSON, another kind of tokenizer, and as the constructor does.
  static ByteBpeTokenizer from_directory(const std::filesystem::path& directory,
                                         TokenizerReport* report = nullptr);

  /// Reads a JSON object of tokens and ids, and a text of one merge a line. Blank lines are left out.
  static ByteBpeTokenizer from_vocab(const std::filesystem::path& vocab_json,
                                     const std::filesystem::path& merges_txt,
                                     const ByteBpeOptions& options = {});

  /// Reads a tokenizer.json alone.
  static ByteBpeTokenizer from_tokenizer_json(const std::filesystem::path& file);

  /// Tokens with their ids as given, in the characters that stand for bytes; the merges, the first one done
  /// first. `added` are matched before; the special tokens are added to it where it lacks them. Throws
  /// TokenizerError: special tokens missing, ids used twice or left out, a byte without a token, a merge that
  /// stands twice or whose parts or result are no tokens.
  ByteBpeTokenizer(std::vector<std::pair<std::string, std::int32_t>> vocabulary, const Merges& merges,
                   const ByteBpeOptions& options, std::vector<AddedToken> added = {});

  std::vector<std::int32_t> tokenize_ids(std::string_view text) const override;
  /// <s> A </s>, or <s> A </s> </s> B </s>; all type ids are 0.
  Encoding encode(std::string_view a, std::optional<std::string_view> b = std::nullopt,
                  std::size_t max_length = default_max_length) const override;

  std::int32_t pad_id() const override;
  std::size_t vocab_size() const override;
  std::int32_t cls_id() const;
  std::int32_t sep_id() const;
  std::int32_t unk_id() const override;
  std::optional<std::int32_t> mask_id() const;  ///< nothing where the vocabulary has no such token
  const ByteBpeOptions& options() const;

  /// The id of `token` as it stands in the vocabulary or among the added tokens; nothing when it is in
  /// neither.
  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// The token of `id`. Throws TokenizerError when no token has it.
  const std::string& token_of(std::int32_t id) const override;

 private:
  struct Impl;
  explicit ByteBpeTokenizer(std::shared_ptr<const Impl> impl);

  std::shared_ptr<const Impl> impl_;
};

}  // namespace sparsegrad::finetune
