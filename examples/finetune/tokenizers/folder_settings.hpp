#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/tokenizer_files.hpp"

// What the files beside a vocabulary say. Everything throws TokenizerError that begins with the file's name.

namespace sparsegrad::finetune::tokenizer_files {

/// What a kind of tokenizer is called in errors, and the classes of transformers that are of it.
struct TokenizerKind {
  std::string_view name;
  std::span<const std::string_view> classes;
};

/// The keys of the special tokens that a kind has roles for, with the places of their names.
using SpecialTokens = std::initializer_list<std::pair<const char*, std::string*>>;

/// Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json, of which any may be missing:
/// the names of the `special` tokens, and into `added` (which has tokenizer.json's) the tokens found in text
/// before it is split. Returns tokenizer_config.json's object, which is empty without the file.
///
/// Which file goes first is as in transformers: where tokenizer_config.json has an "added_tokens_decoder", it
/// alone counts; else special_tokens_map.json before tokenizer_config.json, and tokenizer.json's added tokens
/// before added_tokens.json's. Contradictions are told in the report's notes. An additional special token to
/// which no file gives an id gets the next free one, as in transformers.
Json read_folder_settings(const Path& directory, const TokenizerKind& kind, SpecialTokens special,
                          const Vocabulary& vocabulary, std::vector<AddedToken>& added,
                          TokenizerReport& report);

/// Makes a token of the vocabulary one that is found in text before it is split.
void add_if_known(const std::string& token, const Vocabulary& vocabulary, std::vector<AddedToken>& added);

/// True where tokenizer_config.json's class takes tokenizer.json as it is, whatever else
/// tokenizer_config.json says.
bool follows_tokenizer_json(const Json& config);

/// The tokens that a tokenizer.json's post_processor puts around text.
struct FrameTokens {
  std::string first;
  std::string last;
};

/// Settles `cls_token` and `sep_token`, which are as the folder's settings name them, with those of
/// tokenizer.json, where its post_processor has them.
void settle_frame_tokens(const Json& tokenizer_json, const Json& config, const FrameTokens& of_json,
                         std::string& cls_token, std::string& sep_token, TokenizerReport& report);

/// False where transformers gives the model no token types, so that all are 0: tokenizer_config.json's
/// "model_input_names" or class have none. Noted then.
bool gives_pair_types(const Json& config, TokenizerReport& report);

/// Notes how `other`, the vocabulary of `file`, differs from tokenizer.json's vocabulary and added tokens.
void note_differences(const char* file, const Vocabulary& other, const Vocabulary& vocabulary,
                      const std::vector<AddedToken>& added, TokenizerReport& report);

/// Notes why a file beside tokenizer.json could not be read. Bytes that are not UTF-8 become "?": notes go
/// into the log, which is JSON.
void note_unreadable(const TokenizerError& error, TokenizerReport& report);

/// Refuses cutting from the left, and notes what tokenizer.json ("truncation", "padding") and
/// tokenizer_config.json say of lengths and sides. Each may be empty.
void check_sides(const Json& tokenizer_json, const Json& config, const Path& directory,
                 TokenizerReport& report);

inline Json value_or_null(bool value) {
  return value;
}
inline Json value_or_null(const std::optional<bool>& value) {
  return value ? Json(*value) : Json();
}

/// Settles a setting that both tokenizer.json (as `json_key`, its value in `value`) and tokenizer_config.json
/// (as `key`) may have: the latter goes first, but where follows_tokenizer_json. `usual` is what
/// transformers' class takes where tokenizer_config.json says nothing.
template <class T>
void settle(T& value, const Json& config, const char* key, const char* json_key, const T& usual,
            const Path& config_file, TokenizerReport& report) {
  T wanted = usual;
  set_from(wanted, config, key, config_file);
  if (value == wanted) return;
  const auto found = config.find(key);
  const bool said = found != config.end() && !found->is_null();
  const std::string here =
      std::string("tokenizer.json says \"") + json_key + "\" " + Json(value_or_null(value)).dump();
  if (follows_tokenizer_json(config)) {
    if (said) {
      report.notes.push_back(here + ", tokenizer_config.json \"" + key + "\" " + found->dump() +
                             ": tokenizer.json goes first, as transformers does it for the class " +
                             config.at("tokenizer_class").template get<std::string>());
    }
  } else if (said) {
    report.notes.push_back(here + ", tokenizer_config.json \"" + key + "\" " + found->dump() +
                           ": tokenizer_config.json goes first, as in transformers");
    value = wanted;
  } else {
    report.notes.push_back(here + " and is followed, but transformers takes " +
                           Json(value_or_null(usual)).dump() +
                           " where tokenizer_config.json does not say \"" + key + "\": write it there");
  }
}

}  // namespace sparsegrad::finetune::tokenizer_files
