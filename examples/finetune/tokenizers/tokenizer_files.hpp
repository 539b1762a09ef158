#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/bpe_merges.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer.hpp"

// What the readers of tokenizers share. Everything throws TokenizerError that begins with the file's name.

namespace sparsegrad::finetune::tokenizer_files {

using Json = nlohmann::json;
using Path = std::filesystem::path;

/// Throws where `directory` is none.
void require_directory(const Path& directory);

/// All of a file, which is not empty.
std::string read_file(const Path& file);

/// A file's lines, without their ends ("\n" or "\r\n"), the white space of ASCII before these, and a byte
/// order mark, which is told in the report. Throws naming the line that is not UTF-8.
std::vector<std::string> read_lines(const Path& file, TokenizerReport* report = nullptr);

/// Parses JSON; a key that stands twice in an object (a token in a vocabulary) is an error, not an
/// overwriting.
Json read_json(const Path& file);

/// The value at `key` of an object, where it is there and not null. Throws when it has another type than T.
template <class T>
std::optional<T> get_optional(const Json& object, const char* key, const Path& file) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw TokenizerError(file.string() + ": \"" + key + "\" has an unexpected type, " + found->type_name());
  }
}

template <class T>
void set_from(T& out, const Json& object, const char* key, const Path& file) {
  if (auto value = get_optional<std::conditional_t<std::is_same_v<T, std::optional<bool>>, bool, T>>(
          object, key, file)) {
    out = *value;
  }
}

const Json& object_at(const Json& parent, const char* key, const Path& file);

/// Throws unless the "type" of the component at `key` is one of `accepted` ("none" for no component).
void expect_type(const Json& root, const char* key, std::initializer_list<std::string_view> accepted,
                 const Path& file);

/// The type of a tokenizer.json's model.
std::string model_type(const Json& root, const Path& file);

/// An id of `token`: a whole number from 0 that leaves room for its successor.
std::int32_t to_id(const Json& value, std::string_view token, const Path& file);

/// An added token as tokenizer.json and tokenizer_config.json write it, with its id.
AddedToken read_added_token(const Json& entry, std::int32_t id, const Path& file);

/// A vocabulary written as an object of tokens and ids.
Vocabulary read_vocabulary(const Json& object, const Path& file);

/// A tokenizer.json's merges: "a b" in older files, ["a", "b"] in newer ones.
Merges read_merges(const Json& array, const Path& file);

/// "added_tokens" of a tokenizer.json.
std::vector<AddedToken> read_added_tokens(const Json& root, const Path& file);

/// What a model's templates are: "model's templates" in errors, the processor of its own that stands for
/// them, and what follows the first sentence's end in a pair ("%" is the separating token).
struct Templates {
  std::string_view model;
  std::string_view processor;
  std::string_view rest_of_pair;
};
/// Takes the names of the special tokens from the post_processor, which has to make the model's templates with the ids
/// that `vocabulary` and `added` have for them.
void read_post_processor(const Json& root, const Templates& templates, const Vocabulary& vocabulary,
                         const std::vector<AddedToken>& added, std::string& cls_token, std::string& sep_token,
                         const Path& file);

/// Runs `make`; what it finds wrong gets the file's name before it.
template <class Make>
auto naming_file(const Path& file, Make make) {
  try {
    return make();
  } catch (const TokenizerError& error) {
    throw TokenizerError(file.string() + ": " + error.what());
  }
}

}  // namespace sparsegrad::finetune::tokenizer_files
