#include "checkpoints/gguf_tokenizer_files.hpp"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/gguf_tokenizer.hpp"
#include "checkpoints/written_folder.hpp"
#include "tokenizers/split_patterns.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;

/// The regular expressions of LLaMA-3's and Qwen2's tokenizer.json differ in how long a number may be.
std::string split_regex(std::string_view numbers) {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" + std::string(numbers) +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

json byte_level(bool by_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", by_regex}};
}

json pre_tokenizer_of(SplitPattern pattern) {
  if (pattern == SplitPattern::gpt2) return byte_level(true);
  json first{{"type", "Digits"}, {"individual_digits", true}};
  const bool by_regex = pattern == SplitPattern::smollm2;
  if (!by_regex) {
    first = {
        {"type", "Split"},
        {"pattern", {{"Regex", split_regex(pattern == SplitPattern::llama3 ? R"(\p{N}{1,3})" : R"(\p{N})")}}},
        {"behavior", "Isolated"},
        {"invert", false}};
  }
  return {{"type", "Sequence"}, {"pretokenizers", json::array({first, byte_level(by_regex)})}};
}

/// A text put before every other one.
json post_processor_of(const std::string& token, std::int64_t id) {
  const json own{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const auto text = [](const char* name, int type) {
    return json{{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  return {{"type", "TemplateProcessing"},
          {"single", json::array({own, text("A", 0)})},
          {"pair", json::array({own, text("A", 0), text("B", 1)})},
          {"special_tokens",
           {{token, {{"id", token}, {"ids", json::array({id})}, {"tokens", json::array({token})}}}}}};
}

/// The token whose id a key has, as a field of tokenizer_config.json; nothing where there is none.
std::optional<std::size_t> name_token(const GgufFile& file, std::span<const std::string_view> tokens,
                                      const char* name, const char* field, json& config) {
  const auto id = file.get<std::int64_t>(gguf_tokenizer_key(name));
  if (!id || *id < 0 || static_cast<std::size_t>(*id) >= tokens.size()) return std::nullopt;
  config[field] = tokens[static_cast<std::size_t>(*id)];
  return static_cast<std::size_t>(*id);
}

/// tokenizer.model, and what transformers' LlamaTokenizer asks for beside it.
void write_piece_files(const GgufFile& file, const std::filesystem::path& folder) {
  const PieceModel model = gguf_pieces(file);
  std::vector<std::string_view> tokens;
  json added = json::object();
  for (const Piece& piece : model.pieces) {
    if (piece.type == PieceType::control || piece.type == PieceType::unknown ||
        piece.type == PieceType::user_defined) {
      added[std::to_string(tokens.size())] = {
          {"content", piece.text}, {"single_word", false},
          {"lstrip", false},       {"rstrip", false},
          {"normalized", false},   {"special", piece.type != PieceType::user_defined}};
    }
    tokens.push_back(piece.text);
  }
  json config{{"tokenizer_class", "LlamaTokenizer"},
              {"clean_up_tokenization_spaces", false},
              {"legacy", false},
              {"sp_model_kwargs", json::object()},
              {"add_prefix_space", model.add_dummy_prefix},
              {"add_bos_token", file.get<bool>(gguf_tokenizer_key("add_bos_token")).value_or(true)},
              {"add_eos_token", file.get<bool>(gguf_tokenizer_key("add_eos_token")).value_or(false)},
              {"added_tokens_decoder", added}};
  name_token(file, tokens, "bos_token_id", "bos_token", config);
  name_token(file, tokens, "eos_token_id", "eos_token", config);
  name_token(file, tokens, "padding_token_id", "pad_token", config);
  name_token(file, tokens, "unknown_token_id", "unk_token", config);
  if (const auto chat = file.get<std::string_view>("tokenizer.chat_template"))
    config["chat_template"] = *chat;
  make_model_folder(folder);
  write_text(folder / "tokenizer.model", sentencepiece_model(model.pieces, model.add_dummy_prefix));
  write_text(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

}  // namespace

void write_tokenizer_files(const GgufFile& file, const std::filesystem::path& folder) {
  if (file.at<std::string_view>(gguf_tokenizer_key("model")) == "llama")
    return write_piece_files(file, folder);
  const auto tokens = file.at<std::vector<std::string_view>>(gguf_tokenizer_key("tokens"));
  const auto types = file.get<std::vector<std::int64_t>>(gguf_tokenizer_key("token_type"));
  const auto pattern = pattern_of_pre(file.at<std::string_view>(gguf_tokenizer_key("pre")));
  if (!pattern)
    throw file.error("metadata '" + gguf_tokenizer_key("pre") + "' is not known, expected one of " +
                     known_pre_names());

  json vocabulary = json::object();
  json added = json::array();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    vocabulary[std::string(tokens[i])] = i;
    const std::int64_t type = types && i < types->size() ? (*types)[i] : 1;
    const bool special = type == 2 || type == 3;  // unknown and control (llama.h)
    if ((!special && type != 4) || tokens[i].empty()) continue;
    added.push_back({{"id", i},
                     {"content", tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", !special},
                     {"special", special}});
  }
  json merges = json::array();
  for (const std::string_view merge : file.at<std::vector<std::string_view>>(gguf_tokenizer_key("merges"))) {
    const std::size_t space = merge.find(' ');
    if (space == std::string_view::npos)
      throw file.error("a merge of '" + gguf_tokenizer_key("merges") + "' has no space");
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }

  json config{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto bos = name_token(file, tokens, "bos_token_id", "bos_token", config);
  name_token(file, tokens, "eos_token_id", "eos_token", config);
  name_token(file, tokens, "padding_token_id", "pad_token", config);
  name_token(file, tokens, "unknown_token_id", "unk_token", config);
  if (const auto chat = file.get<std::string_view>("tokenizer.chat_template"))
    config["chat_template"] = *chat;
  const bool adds_bos =
      file.get<bool>(gguf_tokenizer_key("add_bos_token")).value_or(*pattern == SplitPattern::llama3);
  json processor;
  if (adds_bos && bos)
    processor = post_processor_of(std::string(tokens[*bos]), static_cast<std::int64_t>(*bos));

  const bool composes = *pattern == SplitPattern::qwen2;
  const json tokenizer{{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", added},
                       {"normalizer", composes ? json{{"type", "NFC"}} : json()},
                       {"pre_tokenizer", pre_tokenizer_of(*pattern)},
                       {"post_processor", processor},
                       {"decoder", byte_level(true)},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", *pattern == SplitPattern::llama3},
                         {"vocab", vocabulary},
                         {"merges", merges}}}};
  make_model_folder(folder);
  write_text(folder / "tokenizer.json", tokenizer.dump());
  write_text(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

}  // namespace sparsegrad::finetune
