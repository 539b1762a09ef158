#include "tokenizers/folder_settings.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>

#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune::tokenizer_files {
namespace {

constexpr const char* config_name = "tokenizer_config.json";
constexpr const char* map_name = "special_tokens_map.json";
constexpr const char* added_name = "added_tokens.json";
constexpr const char* decoder_key = "added_tokens_decoder";

// The roles that transformers has, in its order.
constexpr std::array<std::string_view, 7> roles{"bos_token", "eos_token", "unk_token", "sep_token",
                                                "pad_token", "cls_token", "mask_token"};

bool is_role(std::string_view key) {
  return std::find(roles.begin(), roles.end(), key) != roles.end();
}

/// A special token as a file names it; with `flags` where the file gives them.
struct NamedToken {
  AddedToken token;
  bool flags = false;
};
using NamedTokens = std::map<std::string, NamedToken>;

Json read_object(const Path& directory, const char* name, TokenizerReport& report) {
  const Path file = directory / name;
  std::error_code no_error;
  if (!std::filesystem::exists(file, no_error)) return Json::object();
  Json object = read_json(file);
  if (!object.is_object())
    throw TokenizerError(file.string() + ": expected a JSON object, found " + object.type_name());
  report.files.emplace_back(name);
  return object;
}

/// A special token stands as a string or as an object with a "content".
NamedToken read_special_token(const Json& value, const std::string& key, const Path& file) {
  NamedToken out;
  if (value.is_string()) {
    out.token.content = value.get<std::string>();
  } else if (value.is_object()) {
    out.flags = true;
    set_from(out.token.content, value, "content", file);
    set_from(out.token.single_word, value, "single_word", file);
    set_from(out.token.lstrip, value, "lstrip", file);
    set_from(out.token.rstrip, value, "rstrip", file);
    set_from(out.token.normalized, value, "normalized", file);
  } else {
    throw TokenizerError(file.string() + ": \"" + key + "\" has an unexpected type, " + value.type_name() +
                         ", expected a token as a string or an object with a \"content\"");
  }
  return out;
}

/// The tokens at keys such as "cls_token". Keys that are no role of transformers' may hold anything else.
NamedTokens read_named(const Json& object, const Path& file) {
  NamedTokens out;
  for (const auto& [key, value] : object.items()) {
    if (!key.ends_with("_token") || value.is_null()) continue;
    if (!is_role(key) && !value.is_string() && !(value.is_object() && value.contains("content"))) continue;
    out.emplace(key, read_special_token(value, key, file));
  }
  return out;
}

/// Additional special tokens: a list, or since transformers 5 also an object of names and tokens.
std::vector<AddedToken> read_additional(const Json& object, const Path& file) {
  std::vector<AddedToken> out;
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) continue;
    if (!found->is_array() && !found->is_object()) {
      throw TokenizerError(file.string() + ": \"" + key + "\" has an unexpected type, " + found->type_name() +
                           ", expected a list of tokens");
    }
    for (const Json& value : *found)
      out.push_back(read_special_token(value, key, file).token);
  }
  return out;
}

/// The vocabulary and the added tokens by their content. Folders of 10 000 added tokens are about.
class Tokens {
 public:
  Tokens(const Vocabulary& vocabulary, std::vector<AddedToken>& added) : added_(added) {
    for (const auto& [token, id] : vocabulary) {
      ids_.insert_or_assign(token, id);
      vocabulary_end_ = std::max(vocabulary_end_, id + 1);
    }
    for (std::size_t i = 0; i < added.size(); ++i)
      places_.try_emplace(added[i].content, i);
  }

  const std::vector<AddedToken>& added() const { return added_; }
  std::int32_t vocabulary_end() const { return vocabulary_end_; }

  const AddedToken* find_added(std::string_view content) const {
    const auto found = places_.find(content);
    return found == places_.end() ? nullptr : &added_[found->second];
  }

  std::optional<std::int32_t> id_in_vocabulary(std::string_view content) const {
    const auto found = ids_.find(content);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// In place of an added token of the same content, where there is one.
  void put(AddedToken token) {
    const auto [place, is_new] = places_.try_emplace(token.content, added_.size());
    if (is_new) {
      added_.push_back(std::move(token));
    } else {
      added_[place->second] = std::move(token);
    }
  }

  std::int32_t next_id() const {
    std::int32_t next = vocabulary_end_;
    for (const AddedToken& token : added_)
      next = std::max(next, token.id + 1);
    return next;
  }

 private:
  std::vector<AddedToken>& added_;
  TokenMap ids_;
  std::unordered_map<std::string, std::size_t, StringHash, std::equal_to<>> places_;
  std::int32_t vocabulary_end_ = 0;
};

bool contains(const std::vector<AddedToken>& tokens, std::string_view content) {
  return std::any_of(tokens.begin(), tokens.end(),
                     [&](const AddedToken& token) { return token.content == content; });
}

void require_class(const Json& config, const TokenizerKind& kind, const Path& file) {
  const auto name = get_optional<std::string>(config, "tokenizer_class", file);
  if (!name || std::find(kind.classes.begin(), kind.classes.end(), *name) != kind.classes.end()) return;
  throw TokenizerError(file.string() + ": expected a " + std::string(kind.name) + " tokenizer such as " +
                       std::string(kind.classes.front()) + ", found the class " + *name +
                       "; the tokenizer's files have to be those of the model");
}

/// Puts the tokens of "added_tokens_decoder" among the added ones, in place of those of the same content.
void read_decoder(const Json& decoder, Tokens& tokens, const Path& file) {
  if (!decoder.is_object()) {
    throw TokenizerError(file.string() + ": \"" + decoder_key + "\" has an unexpected type, " +
                         decoder.type_name());
  }
  for (const auto& [key, entry] : decoder.items()) {
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) {
      throw TokenizerError(file.string() + ": expected ids as keys of \"" + decoder_key + "\", found " +
                           in_quotes(key));
    }
    tokens.put(read_added_token(entry, static_cast<std::int32_t>(std::stol(key)), file));
  }
}

/// The files of one folder while they are settled.
class Settings {
 public:
  Settings(const Path& directory, TokenizerReport& report)
      : report_(report),
        config_file_(directory / config_name),
        config_(read_object(directory, config_name, report)),
        map_file_(directory / map_name),
        map_(read_object(directory, map_name, report)),
        added_file_(directory / added_name),
        added_json_(read_object(directory, added_name, report)) {
    const auto decoder = config_.find(decoder_key);
    has_decoder_ = decoder != config_.end() && !decoder->is_null();
  }

  const Json& config() const { return config_; }
  const Path& config_file() const { return config_file_; }

  void name_special_tokens(SpecialTokens special) {
    named_ = read_named(config_, config_file_);
    additional_ = read_additional(config_, config_file_);
    for (const auto& [key, out] : special)
      if (const auto found = named_.find(key); found != named_.end()) *out = found->second.token.content;
    for (auto& [key, token] : read_named(map_, map_file_))
      name_from_map(key, token, special);
    for (AddedToken& token : read_additional(map_, map_file_)) {
      if (!has_decoder_) {
        additional_.push_back(std::move(token));
      } else if (!contains(additional_, token.content) && !in_decoder(token.content)) {
        note(std::string(map_name) + " has the additional special token " + in_quotes(token.content) +
             " and is not followed: " + decoder_goes_first());
      }
    }
  }

  void read_added(SpecialTokens special, Tokens& tokens) {
    if (has_decoder_) read_decoder(config_.at(decoder_key), tokens, config_file_);
    for (const auto& [content, value] : added_json_.items()) {
      if (content.empty()) throw TokenizerError(added_file_.string() + ": an added token is empty");
      AddedToken token{.content = content, .id = to_id(value, content, added_file_)};
      const std::string found = std::string(added_name) + " has the token " + in_quotes(content) +
                                " with the id " + std::to_string(token.id);
      const AddedToken* same = tokens.find_added(content);
      if (has_decoder_) {
        if (same == nullptr ? tokens.id_in_vocabulary(content) != token.id : same->id != token.id)
          note(found + " and is not followed: " + decoder_goes_first());
      } else if (same == nullptr) {
        token.normalized = !is_special(content, special);
        tokens.put(std::move(token));
      } else if (same->id != token.id) {
        note(found + ", tokenizer.json with " + std::to_string(same->id) +
             ": tokenizer.json goes first, as in transformers");
      }
    }
  }

  /// Adds the special tokens that the files name, with what these say of their flags. Those of `special` that
  /// have no id are left to the tokenizer, which refuses them.
  void add_special(SpecialTokens special, Tokens& tokens) const {
    const auto add = [&](AddedToken token, bool may_number) {
      if (token.content.empty() || tokens.find_added(token.content) != nullptr) return;
      if (const auto id = tokens.id_in_vocabulary(token.content)) {
        token.id = *id;
      } else if (may_number) {
        token.id = tokens.next_id();
        note("no file gives the special token " + in_quotes(token.content) +
             " an id: it gets the next one, " + std::to_string(token.id) + ", as in transformers");
      } else {
        return;
      }
      tokens.put(std::move(token));
    };
    for (const std::string_view role : roles) {
      const auto found = named_.find(std::string(role));
      if (found == named_.end()) continue;
      const bool own =
          std::any_of(special.begin(), special.end(), [&](const auto& entry) { return role == entry.first; });
      // A mask token without flags has those that its tokenizer knows.
      const bool may_number = !own || role == "bos_token" || role == "eos_token";
      if (role != "mask_token" || found->second.flags) add(found->second.token, may_number);
    }
    for (const auto& [key, named] : named_)
      if (!is_role(key)) add(named.token, false);
    for (const AddedToken& token : additional_)
      add(token, true);
    note_gaps(tokens);
  }

 private:
  void note(std::string text) const { report_.notes.push_back(std::move(text)); }

  static std::string decoder_goes_first() {
    return std::string(config_name) + " has an \"" + decoder_key + "\" and goes first, as in transformers";
  }

  bool in_decoder(std::string_view content) const {
    const Json& decoder = config_.at(decoder_key);
    return decoder.is_object() && std::any_of(decoder.begin(), decoder.end(), [&](const Json& entry) {
             return entry.is_object() && entry.value("content", Json()) == content;
           });
  }

  bool is_special(std::string_view content, SpecialTokens special) const {
    return std::any_of(special.begin(), special.end(),
                       [&](const auto& entry) { return *entry.second == content; }) ||
           std::any_of(named_.begin(), named_.end(),
                       [&](const auto& entry) { return entry.second.token.content == content; }) ||
           contains(additional_, content);
  }

  void name_from_map(const std::string& key, const NamedToken& token, SpecialTokens special) {
    const auto own =
        std::find_if(special.begin(), special.end(), [&](const auto& entry) { return key == entry.first; });
    const auto in_config = named_.find(key);
    const std::string name = in_quotes(token.token.content);
    if (has_decoder_) {
      const std::string now = own != special.end()        ? *own->second
                              : in_config != named_.end() ? in_config->second.token.content
                                                          : "";
      if (now != token.token.content) {
        note(std::string(map_name) + " has the " + key + " " + name + " and is not followed" +
             (now.empty() ? "" : ", it is " + in_quotes(now)) + ": " + decoder_goes_first());
      }
      return;
    }
    if (in_config != named_.end() && in_config->second.token.content != token.token.content) {
      note(std::string(config_name) + " has the " + key + " " + in_quotes(in_config->second.token.content) +
           ", " + map_name + " " + name + ": the latter goes first, as in transformers");
    }
    named_.insert_or_assign(key, token);
    if (own != special.end()) *own->second = token.token.content;
  }

  /// transformers' fast tokenizers number added tokens without gaps, its slow ones take the ids as they
  /// stand.
  void note_gaps(const Tokens& tokens) const {
    const std::int32_t first = tokens.vocabulary_end();
    std::vector<std::int32_t> ids;
    for (const AddedToken& token : tokens.added())
      if (token.id >= first) ids.push_back(token.id);
    std::sort(ids.begin(), ids.end());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto expected = first + static_cast<std::int32_t>(i);
      if (ids[i] == expected) continue;
      note("the added tokens' ids leave out " + std::to_string(expected) +
           ": they are taken as they stand, where transformers' fast tokenizers number without gaps");
      return;
    }
  }

  TokenizerReport& report_;
  Path config_file_;
  Json config_;
  Path map_file_;
  Json map_;
  Path added_file_;
  Json added_json_;
  bool has_decoder_ = false;
  NamedTokens named_;
  std::vector<AddedToken> additional_;
};

}  // namespace

Json read_folder_settings(const Path& directory, const TokenizerKind& kind, SpecialTokens special,
                          const Vocabulary& vocabulary, std::vector<AddedToken>& added,
                          TokenizerReport& report) {
  Settings settings(directory, report);
  require_class(settings.config(), kind, settings.config_file());
  settings.name_special_tokens(special);
  Tokens tokens(vocabulary, added);
  settings.read_added(special, tokens);
  settings.add_special(special, tokens);
  if (const auto length = settings.config().find("model_max_length");
      length != settings.config().end() && length->is_number()) {
    report.model_max_length = length->get<double>();
  }
  if (get_optional<bool>(settings.config(), "split_special_tokens", settings.config_file()).value_or(false)) {
    report.notes.emplace_back(
        "tokenizer_config.json's split_special_tokens is not followed: special tokens in a text stay whole");
  }
  return settings.config();
}

void add_if_known(const std::string& token, const Vocabulary& vocabulary, std::vector<AddedToken>& added) {
  Tokens tokens(vocabulary, added);
  const auto id = tokens.id_in_vocabulary(token);
  if (id && tokens.find_added(token) == nullptr) tokens.put({.content = token, .id = *id});
}

bool follows_tokenizer_json(const Json& config) {
  const auto name = config.find("tokenizer_class");
  return name != config.end() && (*name == "PreTrainedTokenizerFast" || *name == "TokenizersBackend");
}

void settle_frame_tokens(const Json& tokenizer_json, const Json& config, const FrameTokens& of_json,
                         std::string& cls_token, std::string& sep_token, TokenizerReport& report) {
  const auto processor = tokenizer_json.find("post_processor");
  if (processor == tokenizer_json.end() || processor->is_null()) {
    report.notes.push_back("tokenizer.json has no post_processor: " + in_quotes(cls_token) + " and " +
                           in_quotes(sep_token) + " are put around texts all the same");
    return;
  }
  const bool follows_json = follows_tokenizer_json(config);
  const auto settle_one = [&](const char* role, const std::string& in_json, std::string& token) {
    if (token == in_json) return;
    report.notes.push_back("tokenizer.json's post_processor has " + in_quotes(in_json) + " for the " + role +
                           " " + in_quotes(token) + " of the files beside it: " +
                           (follows_json ? "tokenizer.json goes first" : "the latter go first") +
                           ", as in transformers");
    if (follows_json) token = in_json;
  };
  settle_one("cls_token", of_json.first, cls_token);
  settle_one("sep_token", of_json.last, sep_token);
}

bool gives_pair_types(const Json& config, TokenizerReport& report) {
  const auto names = config.find("model_input_names");
  if (names != config.end() && names->is_array()) {
    if (std::find(names->begin(), names->end(), "token_type_ids") != names->end()) return true;
    report.notes.emplace_back(
        "tokenizer_config.json's model_input_names has no token_type_ids: all types are 0, as in "
        "transformers");
    return false;
  }
  const auto found = config.find("tokenizer_class");
  const std::string name = found == config.end() || found->is_null() ? "" : found->get<std::string>();
  if (name == "PreTrainedTokenizerFast") {
    report.notes.push_back(
        "tokenizer_config.json has no model_input_names: the second sentence of a pair has the type 1, as in "
        "transformers 4; transformers 5 gives no types for the class PreTrainedTokenizerFast");
  }
  if (!name.starts_with("DistilBert") && name != "TokenizersBackend") return true;
  report.notes.push_back("the class " + name +
                         " gives no token_type_ids: all types are 0, as in transformers");
  return false;
}

void note_differences(const char* file, const Vocabulary& other, const Vocabulary& vocabulary,
                      const std::vector<AddedToken>& added, TokenizerReport& report) {
  TokenMap ids(vocabulary.begin(), vocabulary.end());
  for (const AddedToken& token : added)
    ids.try_emplace(token.content, token.id);
  std::size_t different = 0;
  std::string first;
  const auto differs = [&](const std::string& token, const std::string& here, const std::string& there) {
    if (different++ == 0) first = in_quotes(token) + ", " + here + " there, " + there + " in tokenizer.json";
  };
  for (const auto& [token, id] : other) {
    const auto found = ids.find(token);
    if (found == ids.end()) {
      differs(token, "id " + std::to_string(id), "missing");
    } else if (found->second != id) {
      differs(token, "id " + std::to_string(id), "id " + std::to_string(found->second));
    }
  }
  const TokenMap others(other.begin(), other.end());
  for (const auto& [token, id] : vocabulary)
    if (!others.contains(token)) differs(token, "missing", "id " + std::to_string(id));
  if (different == 0) return;
  report.notes.push_back(std::string(file) + " contradicts tokenizer.json in " + std::to_string(different) +
                         " tokens, the first is " + first +
                         ": tokenizer.json goes first, as in transformers");
}

void note_unreadable(const TokenizerError& error, TokenizerReport& report) {
  std::string text = error.what();
  while (const auto at = find_invalid_utf8(text))
    text[*at] = '?';
  report.notes.push_back(std::move(text));
}

void check_sides(const Json& tokenizer_json, const Json& config, const Path& directory,
                 TokenizerReport& report) {
  const Path config_file = directory / config_name;
  const Path json_file = directory / "tokenizer.json";
  const auto section = [&](const char* key) {
    const auto found = tokenizer_json.find(key);
    return found != tokenizer_json.end() && found->is_object() ? *found : Json::object();
  };
  const Json truncation = section("truncation");
  const Json padding = section("padding");
  const auto said = get_optional<std::string>(config, "truncation_side", config_file);
  if (said && *said != "right") {
    throw TokenizerError(config_file.string() + ": expected the \"truncation_side\" right, found " + *said +
                         ": texts are cut at their ends here");
  }
  if (!said && get_optional<std::string>(truncation, "direction", json_file).value_or("Right") == "Left") {
    throw TokenizerError(json_file.string() +
                         ": expected the truncation's \"direction\" Right, found Left: texts are cut at "
                         "their ends here");
  }
  if (const auto length = truncation.find("max_length"); length != truncation.end()) {
    report.notes.push_back("tokenizer.json cuts texts to " + length->dump() +
                           " tokens: not followed, --max-length says where texts are cut");
  }
  const std::string left = get_optional<std::string>(padding, "direction", json_file).value_or("Right");
  const std::string side = get_optional<std::string>(config, "padding_side", config_file)
                               .value_or(left == "Left" ? "left" : "right");
  if (side != "right") {
    report.notes.push_back("the padding_side is " + side +
                           ": not followed, texts have no padding before them here");
  }
}

}  // namespace sparsegrad::finetune::tokenizer_files
