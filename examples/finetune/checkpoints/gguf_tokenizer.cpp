#include "checkpoints/gguf_tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "tokenizers/sentencepiece.hpp"

namespace sparsegrad::finetune {
namespace {

// Types of tokens (llama.h, llama_token_attr).
enum : std::int64_t { type_unknown = 2, type_control = 3, type_user_defined = 4 };

std::optional<std::int32_t> id_at(const GgufFile& file, const char* name, std::size_t tokens) {
  const auto id = file.get<std::int64_t>(gguf_tokenizer_key(name));
  if (!id) return std::nullopt;
  if (*id < 0 || static_cast<std::uint64_t>(*id) >= tokens) {
    throw file.error("metadata '" + gguf_tokenizer_key(name) + "' is " + std::to_string(*id) +
                     ", expected the id of one of the " + std::to_string(tokens) + " tokens");
  }
  return static_cast<std::int32_t>(*id);
}

Merges read_merges(const GgufFile& file) {
  Merges merges;
  for (const std::string_view text : file.at<std::vector<std::string_view>>(gguf_tokenizer_key("merges"))) {
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string_view::npos) {
      throw file.error("merge " + std::to_string(merges.size() + 1) + " of '" + gguf_tokenizer_key("merges") +
                       "' is " + in_quotes(text) + ", expected two tokens with a space between them");
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

void read_tokens(const GgufFile& file, CausalBpeParts& parts) {
  const auto tokens = file.at<std::vector<std::string_view>>(gguf_tokenizer_key("tokens"));
  const auto types = file.get<std::vector<std::int64_t>>(gguf_tokenizer_key("token_type"));
  if (tokens.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw file.error("has " + std::to_string(tokens.size()) + " tokens, expected fewer than 2^31");
  if (types && types->size() != tokens.size()) {
    throw file.error("'" + gguf_tokenizer_key("token_type") + "' has " + std::to_string(types->size()) +
                     " elements, expected one for each of the " + std::to_string(tokens.size()) + " tokens");
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const std::string text(tokens[i]);
    const std::int64_t type = types ? (*types)[i] : 1;
    const bool special = type == type_control || type == type_unknown;
    if ((special || type == type_user_defined) && !text.empty()) {
      AddedToken added;
      added.content = text;
      added.id = id;
      added.special = special;
      added.normalized = !special;
      parts.added.push_back(std::move(added));
    }
    parts.vocabulary.emplace_back(text, id);
  }
}

void read_settings(const GgufFile& file, bool adds_bos, std::size_t tokens, CausalSettings& settings) {
  settings.bos_id = id_at(file, "bos_token_id", tokens);
  settings.eos_id = id_at(file, "eos_token_id", tokens);
  settings.pad_id = id_at(file, "padding_token_id", tokens);
  for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const auto id = id_at(file, name, tokens);
    if (id && std::find(settings.end_ids.begin(), settings.end_ids.end(), *id) == settings.end_ids.end())
      settings.end_ids.push_back(*id);
  }
  // As llama.cpp has it where the file does not say.
  settings.adds_bos =
      file.get<bool>(gguf_tokenizer_key("add_bos_token")).value_or(adds_bos && settings.bos_id.has_value());
  settings.adds_eos = file.get<bool>(gguf_tokenizer_key("add_eos_token")).value_or(false);
  const auto require = [&](bool adds, const std::optional<std::int32_t>& id, const char* flag,
                           const char* name) {
    if (!adds || id) return;
    throw file.error("'" + gguf_tokenizer_key(flag) + "' is true, but '" + gguf_tokenizer_key(name) +
                     "' is missing");
  };
  require(settings.adds_bos, settings.bos_id, "add_bos_token", "bos_token_id");
  require(settings.adds_eos, settings.eos_id, "add_eos_token", "eos_token_id");
  settings.chat_template = file.get<std::string_view>("tokenizer.chat_template").value_or("");
}

/// Pieces with scores, of the model "llama".
std::unique_ptr<CausalTokenizer> read_sentencepiece(const GgufFile& file) {
  const PieceModel model = gguf_pieces(file);
  CausalSettings settings;
  read_settings(file, true, model.pieces.size(), settings);
  return sentencepiece_tokenizer(sentencepiece_model(model.pieces, model.add_dummy_prefix), {}, settings,
                                 file.path());
}

}  // namespace

std::string gguf_tokenizer_key(const char* name) {
  return std::string("tokenizer.ggml.") + name;
}

PieceModel gguf_pieces(const GgufFile& file) {
  const auto tokens = file.at<std::vector<std::string_view>>(gguf_tokenizer_key("tokens"));
  const auto scores = file.at<std::vector<double>>(gguf_tokenizer_key("scores"));
  const auto types = file.at<std::vector<std::int64_t>>(gguf_tokenizer_key("token_type"));
  if (scores.size() != tokens.size() || types.size() != tokens.size()) {
    throw file.error("'" + gguf_tokenizer_key("scores") + "' and '" + gguf_tokenizer_key("token_type") +
                     "' have " + std::to_string(scores.size()) + " and " + std::to_string(types.size()) +
                     " elements, expected one for each of the " + std::to_string(tokens.size()) + " tokens");
  }
  PieceModel model;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] < 1 || types[i] > 6) {
      throw file.error("'" + gguf_tokenizer_key("token_type") + "' has " + std::to_string(types[i]) +
                       " at element " + std::to_string(i) + ", expected a number from 1 to 6");
    }
    model.pieces.push_back({tokens[i], static_cast<float>(scores[i]), static_cast<PieceType>(types[i])});
  }
  model.add_dummy_prefix = file.get<bool>(gguf_tokenizer_key("add_space_prefix")).value_or(true);
  return model;
}

std::unique_ptr<CausalTokenizer> gguf_tokenizer(const GgufFile& file) {
  const auto model = file.at<std::string_view>(gguf_tokenizer_key("model"));
  if (model == "llama") {
    try {
      return read_sentencepiece(file);
    } catch (const TokenizerError& error) {
      throw IoError(error.what());
    }
  }
  if (model != "gpt2") {
    throw file.error("metadata '" + gguf_tokenizer_key("model") + "' is " + in_quotes(model) +
                     ", expected \"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece)");
  }
  const auto pre = file.get<std::string_view>(gguf_tokenizer_key("pre"));
  const auto pattern = pre ? pattern_of_pre(*pre) : std::nullopt;
  if (!pattern) {
    throw file.error("metadata '" + gguf_tokenizer_key("pre") + "' is " +
                     (pre ? in_quotes(*pre) : "missing") + ", expected one of " + known_pre_names());
  }
  CausalBpeParts parts;
  parts.pattern = *pattern;
  parts.nfc = *pattern == SplitPattern::qwen2;
  parts.ignore_merges = *pattern == SplitPattern::llama3;
  read_tokens(file, parts);
  parts.merges = read_merges(file);
  read_settings(file, parts.pattern == SplitPattern::llama3, parts.vocabulary.size(), parts.settings);
  try {
    return std::make_unique<CausalBpeTokenizer>(std::move(parts));
  } catch (const TokenizerError& error) {
    throw file.error(error.what());
  }
}

}  // namespace sparsegrad::finetune
