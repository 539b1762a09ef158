// A small tokenizer.json for the tests of tokenizers.
#pragma once

#include <initializer_list>

#include <nlohmann/json.hpp>

namespace sparsegrad::finetune::test {

/// A tokenizer.json of a WordPiece tokenizer as transformers writes it, without added tokens. The tokens have the ids 0, 1,
/// ...; [CLS] and [SEP] should be among them.
inline nlohmann::json wordpiece_json(std::initializer_list<const char*> tokens) {
  using Json = nlohmann::json;
  const auto item = [](const char* kind, const char* id, int type) {
    return Json{{kind, {{"id", id}, {"type_id", type}}}};
  };
  const Json cls = item("SpecialToken", "[CLS]", 0);
  const Json sep = item("SpecialToken", "[SEP]", 0);
  const Json a = item("Sequence", "A", 0);
  Json vocabulary;
  int id = 0;
  for (const char* token : tokens)
    vocabulary[token] = id++;
  return {{"version", "1.0"},
          {"added_tokens", Json::array()},
          {"normalizer",
           {{"type", "BertNormalizer"},
            {"clean_text", true},
            {"handle_chinese_chars", true},
            {"strip_accents", nullptr},
            {"lowercase", true}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {cls, a, sep}},
            {"pair", {cls, a, sep, item("Sequence", "B", 1), item("SpecialToken", "[SEP]", 1)}},
            {"special_tokens", Json::object()}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", "[UNK]"},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100},
            {"vocab", vocabulary}}}};
}

}  // namespace sparsegrad::finetune::test
