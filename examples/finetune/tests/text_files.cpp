// Reading tokenizers from files: what is taken from which, and what is refused with which words.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "files.hpp"
#include "support/wordpiece_json.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/wordpiece.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Json = nlohmann::json;

namespace {

constexpr const char* tiny_vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nHello\nworld\n中国\n";

Json added_token(int id, const char* content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

/// A tokenizer.json of a few words, the first four added tokens.
Json tiny_json() {
  Json json = wordpiece_json({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "Hello"});
  json["added_tokens"] = {added_token(0, "[PAD]"), added_token(1, "[UNK]"), added_token(2, "[CLS]"),
                          added_token(3, "[SEP]")};
  return json;
}

std::string vocab_error(std::string_view content) {
  const auto file = write_file(fresh_folder("vocab_error") / "vocab.txt", content);
  return error_of([&] { WordPieceTokenizer::from_vocab(file); });
}

std::string json_error(const Json& json) {
  const auto file = write_file(fresh_folder("json_error") / "tokenizer.json", json.dump());
  return error_of([&] { WordPieceTokenizer::from_tokenizer_json(file); });
}

}  // namespace

TEST_CASE("vocab.txt") {
  const auto folder = fresh_folder("vocab");
  const auto size_of = [&](std::string_view content) {
    return WordPieceTokenizer::from_vocab(write_file(folder / "vocab.txt", content)).vocab_size();
  };
  CHECK(size_of(tiny_vocab) == 9);
  CHECK(size_of("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nhello\r\n") == 5);
  CHECK(size_of("[PAD]\n[UNK]\n[CLS]\n[SEP]\nno newline") == 5);
  CHECK(size_of("[PAD]\n[UNK]\n[CLS]\n[SEP]\n\u2028\n") == 5);  // a line separator is a token, no end of line
}

TEST_CASE("malformed vocab.txt") {
  check_says(vocab_error(""), "vocab.txt: is empty");
  check_says(vocab_error("[PAD]\n[CLS]\n[SEP]\n"),
             "expected the unknown token \"[UNK]\" among the 3 tokens, found none");
  check_says(vocab_error("[PAD]\n[UNK]\n[CLS]\n"), "expected the separating token \"[SEP]\"");
  check_says(vocab_error("[PAD]\n[UNK]\n\n[SEP]\n"), "expected the first token \"[CLS]\"");
  check_says(vocab_error("[PAD]\n[UNK]\n\xFFx\n"), "vocab.txt:3: expected UTF-8");
  check_says(error_of([] { WordPieceTokenizer::from_vocab(fresh_folder("nothing") / "vocab.txt"); }),
             "no such file");
}

TEST_CASE("tokenizer.json") {
  const auto file = write_file(fresh_folder("json") / "tokenizer.json", tiny_json().dump());
  const auto tokenizer = WordPieceTokenizer::from_tokenizer_json(file);
  CHECK(tokenizer.encode("Hello hello", "hello").ids == std::vector<std::int32_t>{2, 4, 4, 3, 4, 3});
  CHECK_FALSE(tokenizer.mask_id().has_value());

  Json cased = tiny_json();
  cased["normalizer"]["lowercase"] = false;
  cased["post_processor"] = {{"type", "BertProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}};
  cased["added_tokens"].push_back(added_token(6, "<new>"));
  cased["model"].erase("type");  // as old versions wrote it
  write_file(file, cased.dump());
  CHECK(WordPieceTokenizer::from_tokenizer_json(file).tokenize_ids("Hello<new>hello") ==
        std::vector<std::int32_t>{5, 6, 4});
}

TEST_CASE("malformed tokenizer.json") {
  const auto file = write_file(fresh_folder("no_json") / "tokenizer.json", "{\"model\": ");
  check_says(error_of([&] { WordPieceTokenizer::from_tokenizer_json(file); }),
             "tokenizer.json: expected JSON, found");
  write_file(file, R"({"model": {"type": "WordPiece", "vocab": {"a": 1, "a": 2}}})");
  check_says(error_of([&] { WordPieceTokenizer::from_tokenizer_json(file); }), "\"a\" stands twice");

  const auto changed = [](auto change) {
    Json json = tiny_json();
    change(json);
    return json_error(json);
  };
  check_says(json_error(Json::array()), "expected an object \"model\", found none");
  check_says(changed([](Json& j) { j.erase("model"); }), "expected an object \"model\", found none");
  check_says(changed([](Json& j) { j["model"]["type"] = "BPE"; }), "expected a WordPiece model, found BPE");
  check_says(changed([](Json& j) { j["model"]["type"] = 3; }), "\"type\" has an unexpected type, number");
  check_says(changed([](Json& j) { j["model"]["vocab"] = 3; }), "expected an object \"vocab\", found number");
  check_says(changed([](Json& j) {
               j["model"]["vocab"] = Json::object();
               j["added_tokens"] = nullptr;
             }),
             "vocabulary is empty");
  check_says(changed([](Json& j) { j["model"]["vocab"]["hello"] = -1; }), "the id of \"hello\" is -1");
  check_says(changed([](Json& j) { j["model"]["vocab"]["hello"] = 5; }), "the id 5 belongs to both");
  check_says(changed([](Json& j) { j["model"]["vocab"].erase("[UNK]"); }),
             "\"[UNK]\" in the vocabulary itself");
  check_says(changed([](Json& j) { j["model"]["max_input_chars_per_word"] = "x"; }),
             "unexpected type, string");
  check_says(changed([](Json& j) { j["normalizer"] = nullptr; }),
             "expected the normalizer BertNormalizer, found none");
  check_says(changed([](Json& j) { j["normalizer"]["type"] = "NFC"; }), "found NFC");
  check_says(changed([](Json& j) { j["normalizer"]["type"] = 7; }),
             "expected the normalizer BertNormalizer, found one without a type");
  check_says(changed([](Json& j) { j["pre_tokenizer"]["type"] = "ByteLevel"; }),
             "expected the pre_tokenizer BertPreTokenizer");
  check_says(changed([](Json& j) { j["post_processor"]["single"].erase(0); }), "expected BERT's templates");
  check_says(changed([](Json& j) { j["post_processor"].erase("pair"); }), "malformed post_processor");
  check_says(
      changed([](Json& j) {
        j["post_processor"] = {{"type", "RobertaProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}};
      }),
      R"(put in its place: {"cls":["[CLS]",2],"sep":["[SEP]",3],"type":"BertProcessing"})");
  // The package takes these ids, whatever the vocabulary says.
  const auto special = [](const char* token, Json ids) {
    return [token, ids](Json& j) { j["post_processor"]["special_tokens"][token] = {{"ids", ids}}; };
  };
  Json sound = tiny_json();
  special("[CLS]", {2})(sound);
  special("[MASK]", {7})(sound);  // in no template
  CHECK(WordPieceTokenizer::from_tokenizer_json(write_file(file, sound.dump())).encode("hello").ids ==
        std::vector<std::int32_t>{2, 4, 3});
  check_says(changed(special("[CLS]", {1})),
             "the post_processor has the id 1 for \"[CLS]\", whose id in the vocabulary is 2");
  check_says(changed(special("[SEP]", {3, 3})), "the post_processor has the ids [3,3] for \"[SEP]\"");
  check_says(changed(special("[SEP]", nullptr)), "the post_processor has the ids null for \"[SEP]\"");
  const auto processing = [&](Json cls, Json sep) {
    return changed([&](Json& j) {
      j["post_processor"] = {{"type", "BertProcessing"}, {"sep", sep}, {"cls", cls}};
    });
  };
  check_says(processing({"[CLS]", 1}, {"[SEP]", 3}),
             "the post_processor has the id 1 for \"[CLS]\", whose id in the vocabulary is 2");
  check_says(processing({"[CLS]", 2}, {"[SEP]", 2}), "the post_processor has the id 2 for \"[SEP]\"");
  check_says(processing({"[CLS]", "2"}, {"[SEP]", 3}), "the id of \"[CLS]\" is \"2\"");
  check_says(processing(Json::array({"[CLS]"}), {"[SEP]", 3}), "malformed post_processor");
  check_says(changed([](Json& j) { j["added_tokens"] = 3; }), "\"added_tokens\" to be an array");
  check_says(changed([](Json& j) { j["added_tokens"][0] = 3; }), "every added token to be an object");
  check_says(changed([](Json& j) { j["added_tokens"][0].erase("id"); }), "the id of \"[PAD]\" is null");
  check_says(changed([](Json& j) { j["added_tokens"][0]["content"] = 5; }), "unexpected type");
  check_says(changed([](Json& j) { j["added_tokens"][0]["id"] = 4; }), "the id 4 belongs to both");
  check_says(changed([](Json& j) { j["added_tokens"][0]["id"] = 9; }),
             "the added token \"[PAD]\" has the id 9 but in the vocabulary it has 0");
  check_says(changed([](Json& j) { j["added_tokens"].push_back(added_token(0, "[PAD]")); }), "added twice");
}

TEST_CASE("a model's directory") {
  const auto folder = fresh_folder("model");
  check_says(error_of([&] { load_tokenizer(folder / "nothing"); }),
             "expected a model's directory, found nothing");
  check_says(error_of([&] { load_tokenizer(folder); }),
             "expected tokenizer.json, vocab.txt, or vocab.json with merges.txt, found none");
  check_says(error_of([&] { WordPieceTokenizer::from_directory(folder); }),
             "expected tokenizer.json or vocab.txt, found neither");

  write_file(folder / "vocab.txt", tiny_vocab);
  CHECK(load_tokenizer(folder)->tokenize_ids("Hello") == std::vector<std::int32_t>{5});
  CHECK(load_tokenizer(folder)->vocab_size() == 9);

  write_file(folder / "tokenizer_config.json",
             R"({"do_lower_case": false, "tokenizer_class": "BertTokenizer"})");
  CHECK(load_tokenizer(folder)->tokenize_ids("Hello") == std::vector<std::int32_t>{6});
  write_file(folder / "tokenizer_config.json", R"({"tokenize_chinese_chars": false, "strip_accents": null})");
  CHECK(load_tokenizer(folder)->tokenize_ids("中国") == std::vector<std::int32_t>{8});

  SUBCASE("tokenizer.json goes before vocab.txt, tokenizer_config.json before both") {
    write_file(folder / "tokenizer.json", tiny_json().dump());
    write_file(folder / "tokenizer_config.json", "{}");
    CHECK(load_tokenizer(folder)->tokenize_ids("Hello") == std::vector<std::int32_t>{4});
    write_file(folder / "tokenizer_config.json", R"({"do_lower_case": false})");
    CHECK(load_tokenizer(folder)->tokenize_ids("Hello") == std::vector<std::int32_t>{5});
  }
  SUBCASE("special tokens by other names, as strings and as objects") {
    write_file(folder / "vocab.txt", "<pad>\n<unk>\n<s>\n</s>\nhello\n");
    write_file(
        folder / "tokenizer_config.json",
        R"({"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "cls_token": "<s>", "sep_token": "</s>",
                   "added_tokens_decoder": {"5": {"content": "<new>", "special": true}}})");
    CHECK(load_tokenizer(folder)->encode("x hello<new>").ids == std::vector<std::int32_t>{2, 1, 4, 5, 3});
  }
  SUBCASE("settings that would be ignored are refused") {
    const auto error = [&](const char* config) {
      write_file(folder / "tokenizer_config.json", config);
      return error_of([&] { load_tokenizer(folder); });
    };
    check_says(error(R"({"tokenizer_class": "RobertaTokenizer"})"), "found the class RobertaTokenizer");
    check_says(error(R"({"do_basic_tokenize": false})"), "\"do_basic_tokenize\" is false");
    check_says(error(R"({"truncation_side": "left"})"), "truncation_side");
    check_says(error(R"({"do_lower_case": "yes"})"), "\"do_lower_case\" has an unexpected type, string");
    check_says(error(R"({"unk_token": 5})"), "\"unk_token\" has an unexpected type, number");
    check_says(error(R"({"added_tokens_decoder": {"x": {"content": "y"}}})"), "expected ids as keys");
    check_says(error(R"({"added_tokens_decoder": {"9": 3}})"), "added token 9");
    check_says(error(R"({"added_tokens_decoder": 3})"), "added_tokens_decoder");
    check_says(error("[]"), "expected a JSON object, found array");
  }
}
