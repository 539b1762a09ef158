#include "tokenizers/causal_folder.hpp"

#include <algorithm>
#include <utility>

#include "tokenizers/folder_settings.hpp"
#include "tokenizers/sentencepiece.hpp"
#include "tokenizers/tokenizer_files.hpp"

namespace sparsegrad::finetune {
using namespace tokenizer_files;
namespace {

const char* const known_pre_tokenizers =
    "ByteLevel (GPT-2), Sequence of Digits and ByteLevel (SmolLM2), Sequence of Split and ByteLevel with the "
    "regular "
    "expression of LLaMA-3 or Qwen2";

std::string type_at(const Json& component) {
  return component.is_object() ? get_optional<std::string>(component, "type", {}).value_or("?") : "none";
}

bool flag(const Json& component, const char* key, bool otherwise, const Path& file) {
  return get_optional<bool>(component, key, file).value_or(otherwise);
}

/// The pattern of a tokenizer.json's pre_tokenizer.
SplitPattern read_pattern(const Json& root, const Path& file) {
  const Json pre = root.value("pre_tokenizer", Json());
  const auto refuse = [&](const std::string& found) {
    return TokenizerError(file.string() + ": the pre_tokenizer is " + found +
                          ", expected one of: " + known_pre_tokenizers);
  };
  if (!pre.is_object()) throw refuse("none");
  Json parts = Json::array({pre});
  if (type_at(pre) == "Sequence") {
    parts = pre.value("pretokenizers", Json());
    if (!parts.is_array() || parts.empty() ||
        !std::all_of(parts.begin(), parts.end(), [](const Json& part) { return part.is_object(); })) {
      throw refuse("a Sequence of " + parts.dump());
    }
  }
  const Json& bytes = parts.back();
  if (type_at(bytes) != "ByteLevel" || parts.size() > 2) throw refuse(pre.dump());
  if (flag(bytes, "add_prefix_space", true, file)) {
    throw TokenizerError(file.string() +
                         ": the pre_tokenizer's \"add_prefix_space\" is true, expected false");
  }
  const bool by_gpt2 = flag(bytes, "use_regex", true, file);
  if (parts.size() == 1) {
    if (!by_gpt2) throw refuse("ByteLevel without a regular expression");
    return SplitPattern::gpt2;
  }
  const Json& first = parts.front();
  if (type_at(first) == "Digits") {
    if (flag(first, "individual_digits", false, file) && by_gpt2) return SplitPattern::smollm2;
    throw refuse(pre.dump());
  }
  if (type_at(first) != "Split" || by_gpt2 || flag(first, "invert", false, file) ||
      get_optional<std::string>(first, "behavior", file).value_or("") != "Isolated") {
    throw refuse(pre.dump());
  }
  const Json pattern = first.value("pattern", Json());
  const std::string regex =
      pattern.is_object() ? get_optional<std::string>(pattern, "Regex", file).value_or("") : std::string();
  if (const auto known = pattern_of_regex(regex)) return *known;
  throw refuse("a Split by the regular expression " + in_quotes(regex));
}

/// The tokens that a post_processor puts around a text.
void read_frame(const Json& processor, CausalSettings& settings, const Path& file) {
  const std::string type = type_at(processor);
  if (processor.is_null() || type == "ByteLevel") return;  // offsets alone
  const auto refuse = [&](const std::string& found) {
    return TokenizerError(
        file.string() + ": the post_processor is " + found +
        ", expected none, ByteLevel, or a TemplateProcessing of at most one token before and one "
        "after a text");
  };
  try {
    if (type == "Sequence") {
      for (const Json& part : processor.at("processors"))
        read_frame(part, settings, file);
      return;
    }
    if (type != "TemplateProcessing") throw refuse(type);
    bool after = false;
    for (const Json& item : processor.at("single")) {
      if (item.contains("Sequence")) {
        after = true;
        continue;
      }
      const auto name = item.at("SpecialToken").at("id").get<std::string>();
      const Json& ids = processor.at("special_tokens").at(name).at("ids");
      bool& adds = after ? settings.adds_eos : settings.adds_bos;
      if (adds || ids.size() != 1) throw refuse(processor.dump());
      adds = true;
      (after ? settings.eos_id : settings.bos_id) = to_id(ids.at(0), name, file);
    }
    if (!after) throw refuse(processor.dump());
  } catch (const Json::exception& error) {
    throw TokenizerError(file.string() + ": malformed post_processor: " + error.what());
  }
}

CausalBpeParts read_parts(const Json& root, const Path& file) {
  const Json& model = object_at(root, "model", file);
  if (const std::string type = model_type(root, file); type != "BPE") {
    throw TokenizerError(file.string() + ": expected a byte-level BPE model, found " + type);
  }
  const auto refuse = [&](const char* key, bool is_set) {
    if (!is_set) return;
    throw TokenizerError(file.string() + ": expected a model without " + key + ", found " +
                         model.at(key).dump() +
                         (std::string_view(key) == "byte_fallback"
                              ? ": a SentencePiece tokenizer, which tokenizer.model or a GGUF file gives"
                              : ""));
  };
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    refuse(key, !get_optional<std::string>(model, key, file).value_or("").empty());
  refuse("byte_fallback", flag(model, "byte_fallback", false, file));
  refuse("dropout", get_optional<double>(model, "dropout", file).value_or(0) != 0);

  CausalBpeParts parts;
  expect_type(root, "normalizer", {"none", "NFC"}, file);
  parts.nfc = root.contains("normalizer") && root.at("normalizer").is_object();
  parts.pattern = read_pattern(root, file);
  expect_type(root, "decoder", {"ByteLevel"}, file);
  parts.ignore_merges = flag(model, "ignore_merges", false, file);
  parts.unk_token = get_optional<std::string>(model, "unk_token", file);
  parts.fuse_unk = flag(model, "fuse_unk", false, file);
  parts.vocabulary = read_vocabulary(object_at(model, "vocab", file), file);
  parts.merges = read_merges(model.value("merges", Json()), file);
  parts.added = read_added_tokens(root, file);
  read_frame(root.value("post_processor", Json()), parts.settings, file);
  return parts;
}

/// Tokens of tokenizer_config.json that tokenizer.json lacks, which transformers adds.
void read_more_added(const Json& config, const Path& file, std::vector<AddedToken>& added) {
  const auto found = config.find("added_tokens_decoder");
  if (found == config.end() || !found->is_object()) return;
  for (const auto& [text, entry] : found->items()) {
    if (!entry.is_object())
      throw TokenizerError(file.string() + ": the added token " + text + " is no object");
    std::int32_t id = -1;
    const bool digits =
        !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
    if (digits) id = to_id(Json(std::stol(text)), text, file);
    if (id < 0)
      throw TokenizerError(file.string() + ": the added token " + in_quotes(text) + ", expected an id");
    const AddedToken token = read_added_token(entry, id, file);
    const auto known = std::find_if(added.begin(), added.end(),
                                    [&](const AddedToken& a) { return a.content == token.content; });
    if (known == added.end()) {
      added.push_back(token);
    } else if (known->id != token.id) {
      throw TokenizerError(file.string() + ": the added token " + in_quotes(token.content) + " has the id " +
                           std::to_string(token.id) + ", in tokenizer.json it has " +
                           std::to_string(known->id));
    }
  }
}

/// A token of the settings: its text, or an object with its content.
std::optional<std::string> token_text(const Json& config, const char* key, const Path& file) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_object()) return get_optional<std::string>(*found, "content", file);
  return get_optional<std::string>(config, key, file);
}

/// A template's text: a text, or the one named "default" of several.
std::string template_text(const Json& config, const Path& file) {
  const auto found = config.find("chat_template");
  if (found == config.end() || !found->is_array()) {
    return get_optional<std::string>(config, "chat_template", file).value_or("");
  }
  for (const Json& entry : *found) {
    if (entry.is_object() && get_optional<std::string>(entry, "name", file).value_or("") == "default")
      return get_optional<std::string>(entry, "template", file).value_or("");
  }
  return "";
}

Json read_object_if_there(const Path& file) {
  std::error_code no_error;
  if (!std::filesystem::exists(file, no_error)) return Json::object();
  Json json = read_json(file);
  if (!json.is_object())
    throw TokenizerError(file.string() + ": expected a JSON object, found " + json.type_name());
  return json;
}

std::optional<std::int32_t> find_token(const CausalBpeParts& parts, const std::string& content) {
  for (const AddedToken& token : parts.added)
    if (token.content == content) return token.id;
  for (const auto& [token, id] : parts.vocabulary)
    if (token == content) return id;
  return std::nullopt;
}

void read_ends(const Path& directory, CausalSettings& settings) {
  const Path file = directory / "generation_config.json";
  const Json generation = read_object_if_there(file);
  const Json ends = generation.value("eos_token_id", Json());
  if (settings.eos_id) settings.end_ids.push_back(*settings.eos_id);
  for (const Json& end : ends.is_array() ? ends : ends.is_null() ? Json::array() : Json::array({ends})) {
    const std::int32_t id = to_id(end, "eos_token_id", file);
    if (std::find(settings.end_ids.begin(), settings.end_ids.end(), id) == settings.end_ids.end())
      settings.end_ids.push_back(id);
  }
}

/// tokenizer.model, with the tokens and settings of tokenizer_config.json.
PieceFiles read_sentencepiece(const Path& directory, const Path& file) {
  const Path config_file = directory / "tokenizer_config.json";
  const Json config = read_object_if_there(config_file);
  std::vector<AddedToken> added;
  read_more_added(config, config_file, added);
  CausalSettings settings;
  settings.adds_bos = flag(config, "add_bos_token", true, config_file);
  settings.adds_eos = flag(config, "add_eos_token", false, config_file);
  settings.chat_template = template_text(config, config_file);
  std::error_code no_error;
  if (const Path jinja = directory / "chat_template.jinja"; std::filesystem::exists(jinja, no_error))
    settings.chat_template = read_file(jinja);
  std::string model = read_file(file);
  const auto plain = sentencepiece_tokenizer(model, added, settings, file.string());
  const auto take = [&](const char* key, std::optional<std::int32_t>& id) {
    const auto text = token_text(config, key, config_file);
    if (!text) return;
    id = plain->id_of(*text);
    if (!id) {
      throw TokenizerError(config_file.string() + ": \"" + key + "\" is " + in_quotes(*text) +
                           ", which is no token of tokenizer.model");
    }
  };
  settings.bos_id = plain->settings().bos_id;
  settings.eos_id = plain->settings().eos_id;
  settings.pad_id = plain->settings().pad_id;
  take("bos_token", settings.bos_id);
  take("eos_token", settings.eos_id);
  take("pad_token", settings.pad_id);
  read_ends(directory, settings);
  return {file.string(), std::move(model), std::move(added), std::move(settings)};
}

}  // namespace

CausalFolder read_causal_folder(const Path& directory) {
  require_directory(directory);
  const Path file = directory / "tokenizer.json";
  const Path piece_file = directory / "tokenizer.model";
  std::error_code no_error;
  const bool has_piece = std::filesystem::exists(piece_file, no_error);
  const bool has_json = std::filesystem::exists(file, no_error);
  if (!has_piece && !has_json)
    throw TokenizerError(directory.string() + ": expected tokenizer.json or tokenizer.model, found none");
  const Json root = has_json ? read_json(file) : Json::object();
  const auto model = root.find("model");
  const bool falls_back =
      model != root.end() && model->is_object() && flag(*model, "byte_fallback", false, file);
  if (has_piece && (!has_json || falls_back))
    return {piece_file.string(), std::nullopt, read_sentencepiece(directory, piece_file)};
  CausalBpeParts parts = read_parts(root, file);
  const Path config_file = directory / "tokenizer_config.json";
  const Path map_file = directory / "special_tokens_map.json";
  const Json config = read_object_if_there(config_file);
  const Json map = read_object_if_there(map_file);
  read_more_added(config, config_file, parts.added);
  CausalSettings& settings = parts.settings;
  const auto take = [&](const char* key, std::optional<std::int32_t>& id) {
    const bool in_config = config.contains(key);
    const auto text = in_config ? token_text(config, key, config_file) : token_text(map, key, map_file);
    if (!text) return;
    const auto found = find_token(parts, *text);
    if (!found) {
      throw TokenizerError((in_config ? config_file : map_file).string() + ": \"" + key + "\" is " +
                           in_quotes(*text) + ", which is no token of tokenizer.json");
    }
    id = *found;
  };
  take("bos_token", settings.bos_id);
  take("eos_token", settings.eos_id);
  take("pad_token", settings.pad_id);
  settings.chat_template = template_text(config, config_file);
  if (const Path jinja = directory / "chat_template.jinja"; std::filesystem::exists(jinja, no_error))
    settings.chat_template = read_file(jinja);
  read_ends(directory, settings);
  return {file.string(), std::move(parts), std::nullopt};
}

std::unique_ptr<CausalTokenizer> load_causal_tokenizer(const Path& directory) {
  CausalFolder folder = read_causal_folder(directory);
  if (folder.pieces) {
    const PieceFiles& p = *folder.pieces;
    return sentencepiece_tokenizer(p.model, p.added, p.settings, p.path);
  }
  std::unique_ptr<CausalTokenizer> tokenizer;
  naming_file(folder.path, [&] { tokenizer = std::make_unique<CausalBpeTokenizer>(std::move(*folder.bpe)); });
  return tokenizer;
}

}  // namespace sparsegrad::finetune
