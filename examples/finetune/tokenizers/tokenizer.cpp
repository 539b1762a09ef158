#include "tokenizers/tokenizer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/tokenizer_files.hpp"
#include "tokenizers/wordpiece.hpp"

namespace sparsegrad::finetune {

PairLengths truncate_longest_first(std::size_t length_a, std::size_t length_b, std::size_t limit) {
  if (length_a + length_b <= limit) return {length_a, length_b};
  std::size_t shorter = std::min(length_a, length_b);
  std::size_t longer = limit - std::min(limit, shorter);
  if (longer < shorter) {
    shorter = limit / 2;
    longer = limit - shorter;
  }
  return length_a > length_b ? PairLengths{longer, shorter} : PairLengths{shorter, longer};
}

std::span<const char* const> tokenizer_file_names() {
  static constexpr const char* names[] = {"vocab.txt",        "tokenizer.json", "tokenizer_config.json",
                                          "vocab.json",       "merges.txt",     "special_tokens_map.json",
                                          "added_tokens.json"};
  return names;
}

namespace {

namespace fs = std::filesystem;

bool has_file(const fs::path& directory, const char* name) {
  std::error_code no_error;
  return fs::exists(directory / name, no_error);
}

/// Of a folder with the vocabularies of both kinds: whether its settings are of RoBERTa's.
bool says_roberta(const fs::path& directory) {
  const auto text_at = [&](const char* name, const char* key) {
    if (!has_file(directory, name)) return std::string();
    const tokenizer_files::Json json = tokenizer_files::read_json(directory / name);
    return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>()
                                                                           : std::string();
  };
  for (const char* file : {"tokenizer_config.json", "config.json"})
    if (const std::string name = text_at(file, "tokenizer_class"); !name.empty())
      return name.starts_with("Roberta");
  return text_at("config.json", "model_type") == "roberta";
}

bool is_byte_bpe(const fs::path& directory) {
  const auto has = [&](const char* name) { return has_file(directory, name); };
  if (has("tokenizer.json")) {
    const fs::path file = directory / "tokenizer.json";
    const std::string type = tokenizer_files::model_type(tokenizer_files::read_json(file), file);
    if (type == "BPE" || type == "WordPiece") return type == "BPE";
    throw TokenizerError(file.string() + ": expected a WordPiece or BPE model, found " + type +
                         ": the tokenizers of BERT and RoBERTa alone are computed here");
  }
  const bool bpe = has("vocab.json") || has("merges.txt");
  if (has("vocab.txt")) return bpe && says_roberta(directory);
  if (bpe) return true;
  std::string found = "none";
  for (const char* name : {"sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model"}) {
    if (has(name)) {
      found = std::string(name) +
              ", a SentencePiece model: the tokenizers of BERT and RoBERTa alone are computed here";
    }
  }
  throw TokenizerError(directory.string() +
                       ": expected tokenizer.json, vocab.txt, or vocab.json with merges.txt, found " + found);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& directory, TokenizerReport* report) {
  tokenizer_files::require_directory(directory);
  TokenizerReport own;
  TokenizerReport& out = report != nullptr ? *report : own;
  std::unique_ptr<Tokenizer> tokenizer;
  if (is_byte_bpe(directory)) {
    tokenizer = std::make_unique<ByteBpeTokenizer>(ByteBpeTokenizer::from_directory(directory, &out));
  } else {
    tokenizer = std::make_unique<WordPieceTokenizer>(WordPieceTokenizer::from_directory(directory, &out));
  }
  for (const char* name : tokenizer_file_names()) {
    if (!has_file(directory, name) || std::find(out.files.begin(), out.files.end(), name) != out.files.end())
      continue;
    out.notes.push_back(std::string(name) + " is not read: the tokenizer is the " + out.kind + " of " +
                        out.files.front());
  }
  return tokenizer;
}

}  // namespace sparsegrad::finetune
