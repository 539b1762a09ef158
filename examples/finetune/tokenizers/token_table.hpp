#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"

namespace sparsegrad::finetune {

/// Tokens with their ids, in any order.
using Vocabulary = std::vector<std::pair<std::string, std::int32_t>>;

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using TokenMap = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// `text` between quotation marks, for errors.
std::string in_quotes(std::string_view text);

/// The vocabulary of a tokenizer and its added tokens, both ways.
class TokenTable {
 public:
  TokenTable() = default;
  /// Throws TokenizerError: no token at all, ids below 0 or used twice, a token twice, not UTF-8, an added
  /// token with another id than in the vocabulary.
  TokenTable(Vocabulary&& vocabulary, std::vector<AddedToken> added);

  /// The id of `token.content`, which is added with the flags of `token` where it was not added before.
  /// Throws TokenizerError naming its role when there is no such token.
  std::int32_t add_special(AddedToken token, const char* role);

  std::optional<std::int32_t> find(std::string_view token) const;
  /// Throws TokenizerError when no token has this id.
  const std::string& token_of(std::int32_t id) const;

  const TokenMap& vocabulary() const { return vocabulary_; }  ///< without the added tokens
  const std::vector<AddedToken>& added() const { return added_; }
  std::size_t size() const { return tokens_.size(); }
  std::size_t id_end() const { return id_end_; }  ///< the largest id plus one
  /// The smallest id below `id_end` that no token has.
  std::optional<std::int32_t> hole() const;

 private:
  void name_id(std::int32_t id, const std::string& token);

  TokenMap vocabulary_;
  TokenMap added_ids_;
  std::vector<AddedToken> added_;
  std::unordered_map<std::int32_t, std::string> tokens_;
  std::size_t id_end_ = 0;
};

}  // namespace sparsegrad::finetune
