#include "tokenizers/token_table.hpp"

#include <algorithm>

#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {

std::string in_quotes(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

TokenTable::TokenTable(Vocabulary&& vocabulary, std::vector<AddedToken> added) : added_(std::move(added)) {
  if (vocabulary.empty()) throw TokenizerError("the vocabulary is empty");
  vocabulary_.reserve(vocabulary.size());
  for (auto& [token, id] : vocabulary) {
    if (find_invalid_utf8(token))
      throw TokenizerError("the token of id " + std::to_string(id) + " is not UTF-8");
    name_id(id, token);
    if (!vocabulary_.try_emplace(std::move(token), id).second)
      throw TokenizerError(in_quotes(token) + " stands twice in the vocabulary");
  }
  for (const AddedToken& token : added_) {
    name_id(token.id, token.content);
    if (const auto piece = vocabulary_.find(token.content);
        piece != vocabulary_.end() && piece->second != token.id) {
      throw TokenizerError("the added token " + in_quotes(token.content) + " has the id " +
                           std::to_string(token.id) + " but in the vocabulary it has " +
                           std::to_string(piece->second));
    }
    if (!added_ids_.emplace(token.content, token.id).second) {
      throw TokenizerError("the token " + in_quotes(token.content) + " is added twice");
    }
  }
}

void TokenTable::name_id(std::int32_t id, const std::string& token) {
  if (id < 0)
    throw TokenizerError("the id of " + in_quotes(token) + " is " + std::to_string(id) + ", below 0");
  const auto [entry, is_new] = tokens_.emplace(id, token);
  if (!is_new && entry->second != token) {
    throw TokenizerError("the id " + std::to_string(id) + " belongs to both " + in_quotes(entry->second) +
                         " and " + in_quotes(token));
  }
  id_end_ = std::max(id_end_, static_cast<std::size_t>(id) + 1);
}

std::int32_t TokenTable::add_special(AddedToken token, const char* role) {
  const auto id = find(token.content);
  if (!id) {
    throw TokenizerError("expected the " + std::string(role) + " token " + in_quotes(token.content) +
                         " among the " + std::to_string(tokens_.size()) + " tokens, found none");
  }
  token.id = *id;
  if (added_ids_.emplace(token.content, *id).second) added_.push_back(std::move(token));
  return *id;
}

std::optional<std::int32_t> TokenTable::find(std::string_view token) const {
  if (const auto added = added_ids_.find(token); added != added_ids_.end()) return added->second;
  if (const auto piece = vocabulary_.find(token); piece != vocabulary_.end()) return piece->second;
  return std::nullopt;
}

const std::string& TokenTable::token_of(std::int32_t id) const {
  const auto found = tokens_.find(id);
  if (found == tokens_.end()) {
    throw TokenizerError("expected the id of one of the " + std::to_string(tokens_.size()) +
                         " tokens, found " + std::to_string(id));
  }
  return found->second;
}

std::optional<std::int32_t> TokenTable::hole() const {
  if (tokens_.size() == id_end_) return std::nullopt;
  std::int32_t id = 0;
  while (tokens_.contains(id))
    ++id;
  return id;
}

}  // namespace sparsegrad::finetune
