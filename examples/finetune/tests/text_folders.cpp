// Whole tokenizer folders: which file goes first, against transformers (goldens by
// golden/make_tokenizer_folder_goldens.py), and what is told of those that are not followed.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/hf_directory.hpp"
#include "data/encoded_dataset.hpp"
#include "files.hpp"
#include "support/wordpiece_json.hpp"
#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/wordpiece.hpp"
#include "training/model_tokenizer.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using sparsegrad::index_t;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* tiny_vocab =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nHello\nworld\ntake\nnow\n<s>\n</s>\n[\ne\n##nt\n]\n";
constexpr std::int32_t tiny_size = 16;

fs::path tiny_folder(const char* name) {
  fs::path folder = fresh_folder(name);
  write_file(folder / "vocab.txt", tiny_vocab);
  return folder;
}

std::string small_bpe_file(const char* name) {
  std::ifstream stream(fs::path(SPARSEGRAD_TEST_DIR) / "golden/glue/small_bpe" / name, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// A tokenizer.json of a few words.
Json tiny_json() {
  return wordpiece_json({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "Hello", "<s>", "x", "y", "z"});
}

bool says(const TokenizerReport& report, std::string_view part) {
  return std::any_of(report.notes.begin(), report.notes.end(),
                     [&](const std::string& note) { return note.find(part) != std::string::npos; });
}

void check_note(const TokenizerReport& report, std::string_view part) {
  std::string all;
  for (const std::string& note : report.notes)
    all += note + "\n";
  CHECK_MESSAGE(says(report, part), all << "do not say \"" << std::string(part) << "\"");
}

/// Every file that is saved with a model is read, or the notes name it.
void check_every_file(const fs::path& folder, const TokenizerReport& report) {
  for (const char* name : tokenizer_file_names()) {
    if (!fs::exists(folder / name)) continue;
    CAPTURE(name);
    CHECK((std::find(report.files.begin(), report.files.end(), name) != report.files.end() ||
           says(report, std::string(name) + " is not read")));
  }
}

TokenizerReport report_of(const fs::path& folder) {
  TokenizerReport report;
  load_tokenizer(folder, &report);
  check_every_file(folder, report);
  return report;
}

std::string config_error(const char* config) {
  const fs::path folder = tiny_folder("config_error");
  write_file(folder / "tokenizer_config.json", config);
  return error_of([&] { load_tokenizer(folder); });
}

ModelConfig model_of(index_t vocab_size, index_t pad_id = 0) {
  ModelConfig config;
  config.vocab_size = vocab_size;
  config.pad_token_id = static_cast<int>(pad_id);
  return config;
}

}  // namespace

TEST_CASE("folders give transformers' ids, whichever of their files says what the tokenizer is") {
  const Json golden = read_golden("tokenizer_folders.json");
  REQUIRE(golden.at("cases").size() > 30);
  for (const Json& entry : golden.at("cases")) {
    const auto name = entry.at("name").get<std::string>();
    CAPTURE(name);
    const fs::path folder = fresh_folder("golden");
    if (entry.at("family") == "roberta")
      for (const char* file : {"vocab.json", "merges.txt"})
        write_file(folder / file, small_bpe_file(file));
    for (const auto& file : entry.at("files").items())
      write_file(folder / file.key(), file.value().get<std::string>());

    TokenizerReport report;
    const auto tokenizer = load_tokenizer(folder, &report);
    check_every_file(folder, report);
    const auto strings = entry.at("strings").get<std::vector<std::string>>();
    for (std::size_t i = 0; i < strings.size(); ++i) {
      CAPTURE(strings[i]);
      CHECK(tokenizer->tokenize_ids(strings[i]) == entry.at("ids").at(i).get<Ids>());
    }
    const auto pair = entry.at("pair").get<std::vector<std::string>>();
    const Encoding encoding = tokenizer->encode(pair.at(0), pair.at(1));
    CHECK(encoding.ids == entry.at("pair_ids").get<Ids>());
    CHECK(encoding.type_ids == entry.at("pair_types").get<Ids>());
    CHECK(tokenizer->pad_id() == entry.at("pad_id").get<std::int32_t>());
    CHECK(tokenizer->unk_id() == entry.at("unk_id").get<std::int32_t>());
  }
}

TEST_CASE("every tokenizer file that is saved is read, or reported") {
  std::set<std::string> saved;
  for (const char* name : saved_file_names())
    saved.insert(name);
  std::set<std::string> known{"model.safetensors", "config.json"};
  for (const char* name : tokenizer_file_names())
    known.insert(name);
  CHECK(saved == known);

  const auto fill = [](const fs::path& folder) {
    write_file(folder / "vocab.txt", tiny_vocab);
    write_file(folder / "vocab.json", small_bpe_file("vocab.json"));
    write_file(folder / "merges.txt", small_bpe_file("merges.txt"));
    write_file(folder / "tokenizer_config.json", "{}");
    write_file(folder / "special_tokens_map.json", "{}");
    write_file(folder / "added_tokens.json", "{}");
  };
  const fs::path folder = fresh_folder("all");
  fill(folder);
  TokenizerReport report = report_of(folder);
  CHECK(report.kind == "WordPiece");
  check_note(report, "vocab.json is not read: the tokenizer is the WordPiece of vocab.txt");
  check_note(report, "merges.txt is not read");

  SUBCASE("the family says which of two vocabularies is the model's") {
    write_file(folder / "config.json", R"({"model_type": "roberta"})");
    report = report_of(folder);
    CHECK(report.kind == "byte-level BPE");
    check_note(report, "vocab.txt is not read: the tokenizer is the byte-level BPE of vocab.json");
    write_file(folder / "tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer"})");
    CHECK(report_of(folder).kind == "WordPiece");
    write_file(folder / "tokenizer_config.json", "{}");
    write_file(folder / "config.json", R"({"model_type": "roberta", "tokenizer_class": "BertTokenizer"})");
    CHECK(report_of(folder).kind == "WordPiece");
    write_file(folder / "config.json", R"({"model_type": "bert"})");
    write_file(folder / "tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizerFast"})");
    CHECK(report_of(folder).kind == "byte-level BPE");
  }
  SUBCASE("tokenizer.json goes before all vocabularies") {
    write_file(folder / "tokenizer.json", tiny_json().dump());
    report = report_of(folder);
    CHECK(report.files.front() == "tokenizer.json");
    check_note(report,
               "vocab.txt contradicts tokenizer.json in 15 tokens, the first is \"[MASK]\", id 4 "
               "there, missing in tokenizer.json: tokenizer.json goes first");
    check_note(report, "vocab.json is not read");
    // One that agrees is read and no word is lost on it.
    write_file(folder / "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nHello\n<s>\nx\ny\nz\n");
    CHECK_FALSE(says(report_of(folder), "vocab.txt"));
    write_file(folder / "vocab.txt", "\xFF");
    report = report_of(folder);
    check_note(report, "expected UTF-8, found an invalid byte");
    check_note(report, "vocab.txt is not read");
  }
  SUBCASE("tokenizer.json of byte-level BPE beside other files") {
    Json root = {
        {"normalizer", nullptr},
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
        {"post_processor", {{"type", "RobertaProcessing"}, {"sep", {"</s>", 2}}, {"cls", {"<s>", 0}}}},
        {"model", {{"type", "BPE"}, {"vocab", Json::parse(small_bpe_file("vocab.json"))}}}};
    root["model"]["merges"] = Json::array({Json::array({"x", "x"}), Json::array({"a", "a"})});
    write_file(folder / "tokenizer.json", root.dump());
    report = report_of(folder);
    check_note(report, "merges.txt contradicts tokenizer.json, first in merge 3");
    CHECK_FALSE(says(report, "vocab.json"));
    write_file(folder / "vocab.json", "{\"\xFF");
    report = report_of(folder);
    check_note(report, "vocab.json is not read");
    CHECK_NOTHROW(to_json(report).dump());  // bytes that are no UTF-8 would end the run
    write_file(folder / "merges.txt", "x x\na a\n");
    CHECK_FALSE(says(report_of(folder), "merges.txt"));
  }
}

TEST_CASE("contradictions between the files are told, with the file that goes first") {
  const fs::path folder = tiny_folder("contradictions");
  const auto report = [&](const char* config, const char* map, const char* added) {
    write_file(folder / "tokenizer_config.json", config);
    write_file(folder / "special_tokens_map.json", map);
    write_file(folder / "added_tokens.json", added);
    return report_of(folder);
  };
  CHECK(report(R"({"cls_token": "[CLS]"})", R"({"cls_token": "[CLS]", "additional_special_tokens": []})",
               R"({"drugx": 16})")
            .notes.empty());
  check_note(report(R"({"cls_token": "[CLS]"})", R"({"cls_token": "<s>"})", "{}"),
             "tokenizer_config.json has the cls_token \"[CLS]\", special_tokens_map.json \"<s>\": the latter "
             "goes first");
  const char* decoder = R"({"added_tokens_decoder": {"16": {"content": "drugx"}}})";
  CHECK(report(decoder, R"({"cls_token": "[CLS]"})", R"({"drugx": 16, "hello": 5})").notes.empty());
  const TokenizerReport others =
      report(decoder, R"({"cls_token": "<s>", "additional_special_tokens": ["[ENT]", "drugx"]})",
             R"({"drugx": 17})");
  CHECK(others.notes.size() == 3);
  check_note(others,
             "special_tokens_map.json has the cls_token \"<s>\" and is not followed, it is \"[CLS]\"");
  check_note(others,
             "special_tokens_map.json has the additional special token \"[ENT]\" and is not followed");
  check_note(others, "added_tokens.json has the token \"drugx\" with the id 17 and is not followed");
  check_note(report(R"({"added_tokens_decoder": {}})", "{}", R"({"drugx": 16})"),
             "added_tokens.json has the token \"drugx\"");
  check_note(report("{}", R"({"additional_special_tokens": ["[ENT]"]})", R"({"drugx": 16})"),
             "no file gives the special token \"[ENT]\" an id: it gets the next one, 17");
  check_note(report("{}", "{}", R"({"drugx": 16, "more": 18})"), "the added tokens' ids leave out 17");
}

TEST_CASE("additional special tokens are strings or objects, in a list or by names, in either file") {
  const auto folder = tiny_folder("additional");
  const auto ids = [&](const char* name, const char* content) {
    for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"})
      write_file(folder / file, std::string_view(file) == name ? content : "{}");
    write_file(folder / "added_tokens.json", R"({"[ENT]": 16})");
    return load_tokenizer(folder)->tokenize_ids("take [ENT] [ent]");
  };
  const Ids special{8, tiny_size, 12, 13, 14, 15};  // "[ent]" is another text
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    CAPTURE(file);
    CHECK(ids(file, R"({"additional_special_tokens": ["[ENT]"]})") == special);
    CHECK(ids(file, R"({"additional_special_tokens": [{"content": "[ENT]", "lstrip": false}]})") == special);
    CHECK(ids(file, R"({"extra_special_tokens": ["[ENT]"]})") == special);
    CHECK(ids(file, R"({"extra_special_tokens": {"entity_token": "[ENT]"}})") == special);
    CHECK(ids(file, R"({"entity_token": "[ENT]"})") == special);
  }
  CHECK(ids("tokenizer_config.json", "{}") == Ids{8, tiny_size, tiny_size});  // looked for in lower case
}

TEST_CASE("settings that tokenizer.json and tokenizer_config.json both have") {
  const auto folder = fresh_folder("settings");
  Json root = tiny_json();
  const auto load = [&](const char* config, TokenizerReport& report) {
    report = {};
    write_file(folder / "tokenizer.json", root.dump());
    write_file(folder / "tokenizer_config.json", config);
    return load_tokenizer(folder, &report);
  };
  TokenizerReport report;
  const Ids lower{4};
  const Ids as_is{5};
  CHECK(load("{}", report)->tokenize_ids("Hello") == lower);
  CHECK(report.notes.empty());
  CHECK(load(R"({"do_lower_case": false})", report)->tokenize_ids("Hello") == as_is);
  check_note(report,
             "tokenizer.json says \"lowercase\" true, tokenizer_config.json \"do_lower_case\" false: "
             "tokenizer_config.json goes first");
  CHECK(load(R"({"do_lower_case": false, "tokenizer_class": "PreTrainedTokenizerFast",
                 "model_input_names": ["token_type_ids"]})",
             report)
            ->tokenize_ids("Hello") == lower);
  CHECK(report.notes.size() == 1);
  check_note(report,
             "tokenizer.json goes first, as transformers does it for the class PreTrainedTokenizerFast");
  root["normalizer"]["lowercase"] = false;
  CHECK(load("{}", report)->tokenize_ids("Hello") == as_is);
  check_note(report, "tokenizer.json says \"lowercase\" false and is followed, but transformers takes true");
  root["normalizer"]["lowercase"] = true;
  root["normalizer"]["strip_accents"] = true;  // as unset where text is lowered
  load("{}", report);
  CHECK(report.notes.empty());
  root["normalizer"]["strip_accents"] = false;
  root["normalizer"]["handle_chinese_chars"] = false;
  load(R"({"strip_accents": true})", report);
  check_note(report, "\"strip_accents\" false, tokenizer_config.json \"strip_accents\" true");
  check_note(report, "\"handle_chinese_chars\" false and is followed");

  root = tiny_json();
  CHECK(load(R"({"cls_token": "<s>"})", report)->encode("hello").ids == Ids{6, 4, 3});
  check_note(report, "post_processor has \"[CLS]\" for the cls_token \"<s>\"");
  CHECK(load(R"({"cls_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"})", report)
            ->encode("hello")
            .ids == Ids{2, 4, 3});
  check_note(report, "tokenizer.json goes first");
  check_note(report, "transformers 5 gives no types for the class PreTrainedTokenizerFast");
  root["post_processor"] = nullptr;
  load("{}", report);
  check_note(report, "tokenizer.json has no post_processor");

  root = tiny_json();
  root["truncation"] = {{"direction", "Right"}, {"max_length", 9}};
  root["padding"] = {{"direction", "Left"}};
  load("{}", report);
  check_note(report, "tokenizer.json cuts texts to 9 tokens: not followed");
  check_note(report, "the padding_side is left: not followed");
  root["truncation"]["direction"] = "Left";
  check_says(error_of([&] { load("{}", report); }), "\"direction\" Right, found Left");
  load(R"({"truncation_side": "right", "padding_side": "right"})", report);
  CHECK_FALSE(says(report, "padding_side"));
}

TEST_CASE("settings of vocab.txt's folder that are not followed are told") {
  const auto folder = tiny_folder("told");
  const auto report = [&](const char* config) {
    write_file(folder / "tokenizer_config.json", config);
    return report_of(folder);
  };
  check_note(report(R"({"never_split": ["hello"]})"), "never_split is not followed");
  check_note(report(R"({"padding_side": "left"})"), "padding_side is left");
  check_note(report(R"({"split_special_tokens": true})"), "split_special_tokens is not followed");
  check_note(report(R"({"model_input_names": ["input_ids"]})"), "all types are 0");
  check_note(report(R"({"tokenizer_class": "DistilBertTokenizer"})"),
             "DistilBertTokenizer gives no token_type_ids");
  CHECK(report(R"({"model_max_length": 128, "never_split": null, "add_bos_token": false})").notes.empty());
}

TEST_CASE("a cased vocabulary under lower case is told") {
  const auto folder = tiny_folder("capitals");
  write_file(folder / "vocab.txt", std::string(tiny_vocab) + "Ärger\nWorld\n");
  check_note(report_of(folder),
             "3 of the vocabulary's 18 tokens have capital letters, but texts are put into");
  write_file(folder / "tokenizer_config.json", R"({"do_lower_case": false})");
  CHECK(report_of(folder).notes.empty());
}

TEST_CASE("malformed files beside a vocabulary") {
  const auto folder = tiny_folder("malformed");
  const auto error = [&](const char* file, const char* content) {
    write_file(folder / file, content);
    std::string text = error_of([&] { load_tokenizer(folder); });
    fs::remove(folder / file);
    return text;
  };
  check_says(error("added_tokens.json", "[]"), "added_tokens.json: expected a JSON object, found array");
  check_says(error("added_tokens.json", R"({"x": "y"})"), "added_tokens.json: the id of \"x\" is \"y\"");
  check_says(error("added_tokens.json", R"({"": 16})"), "added_tokens.json: an added token is empty");
  check_says(error("added_tokens.json", R"({"hello": 6})"),
             "the id 6 belongs to both \"Hello\" and \"hello\"");
  check_says(error("special_tokens_map.json", "3"), "special_tokens_map.json: expected a JSON object");
  check_says(error("special_tokens_map.json", R"({"cls_token": 3})"), "\"cls_token\" has an unexpected type");
  check_says(error("special_tokens_map.json", R"({"cls_token": "<none>"})"),
             "expected the first token \"<none>\" among the 16 tokens, found none");
  check_says(error("special_tokens_map.json", R"({"additional_special_tokens": "x"})"),
             "expected a list of tokens");
  check_says(error("special_tokens_map.json", R"({"additional_special_tokens": [3]})"),
             "unexpected type, number");
  check_says(config_error(R"({"tokenizer_class": "XLMRobertaTokenizer"})"),
             "expected a WordPiece tokenizer such as BertTokenizer, found the class XLMRobertaTokenizer");
  check_says(config_error(R"({"tokenizer_class": 3})"), "\"tokenizer_class\" has an unexpected type, number");
  const auto spiece = fresh_folder("spiece");
  write_file(spiece / "sentencepiece.bpe.model", "x");
  check_says(error_of([&] { load_tokenizer(spiece); }),
             "found sentencepiece.bpe.model, a SentencePiece model");
  write_file(spiece / "tokenizer.json", R"({"model": {"type": "WordLevel", "vocab": {}}})");
  check_says(error_of([&] { load_tokenizer(spiece); }),
             "expected a WordPiece or BPE model, found WordLevel: the tokenizers of BERT and RoBERTa alone");
}

TEST_CASE("vocabularies as editors leave them") {
  const auto folder = fresh_folder("lines");
  const auto load = [&](std::string_view vocab, TokenizerReport& report) {
    report = {};
    write_file(folder / "vocab.txt", vocab);
    return load_tokenizer(folder, &report);
  };
  TokenizerReport report;
  const Ids expected{2, 5, 7, 3};
  CHECK(load(std::string("\xEF\xBB\xBF") + tiny_vocab, report)->encode("hello world").ids == expected);
  check_note(report, "vocab.txt begins with a byte order mark");
  CHECK(load("[PAD] \n[UNK]\t\n[CLS]\n[SEP]\r\n[MASK]\nhello \nHello\nworld", report)
            ->encode("hello world")
            .ids == expected);
  CHECK(report.notes.empty());
  CHECK(load(std::string(tiny_vocab) + "\n\r\n \n", report)->vocab_size() == tiny_size);
  CHECK(report.notes.empty());
  CHECK(load("[PAD]\n[UNK]\n[CLS]\n[SEP]\n\nhello\n\nworld\n\n", report)->encode("hello world").ids ==
        expected);
  CHECK(report.notes.size() == 1);
  check_note(report, "vocab.txt has blank lines within, the first of 2 is line 5");
  CHECK(load(std::string(tiny_vocab) + "hello\nhello\n", report)->tokenize_ids("hello") == Ids{17});
  check_note(
      report,
      "vocab.txt has 2 repeated lines, the first is line 17, \"hello\", which stands already in line 6");
  check_says(error_of([&] { load("\xFF\xFE[\0P", report); }),
             "expected UTF-8, found UTF-16: save it as UTF-8");
  check_says(error_of([&] { load("\n\n", report); }), "the vocabulary is empty");
  check_says(error_of([&] { load("\xEF\xBB\xBF", report); }), "the vocabulary is empty");

  const auto bpe = fresh_folder("bpe_lines");
  write_file(bpe / "vocab.json", "\xEF\xBB\xBF" + small_bpe_file("vocab.json"));
  const std::string merges = small_bpe_file("merges.txt");
  write_file(bpe / "merges.txt", merges);
  const Ids hello = load_tokenizer(bpe)->tokenize_ids("hello world");
  const std::size_t second = merges.find('\n') + 1;
  for (const std::string& text :
       {"\xEF\xBB\xBF" + merges, merges + "\n \n", merges.substr(0, second) + "\r\n" + merges.substr(second),
        merges.substr(second), merges + merges.substr(0, second)}) {
    write_file(bpe / "merges.txt", text);
    CHECK(load_tokenizer(bpe)->tokenize_ids("hello world") == hello);
  }
  write_file(bpe / "merges.txt", "#version: 0.2\n");
  check_note(report_of(bpe), "merges.txt has no merges: every byte of a text is a token of its own");
}

TEST_CASE("a tokenizer that does not fit its model") {
  const auto folder = tiny_folder("fit");
  const auto report = [&](const ModelConfig& config, index_t max_length = 32) {
    TokenizerReport out;
    load_model_tokenizer(folder, config, max_length, out);
    return out;
  };
  CHECK(report(model_of(tiny_size)).notes.empty());
  check_note(report(model_of(tiny_size + 4)), "the model has 20 word embeddings, the tokenizer ids for 16");
  check_note(report(model_of(tiny_size + 512)),
             "the model has 528 word embeddings, the tokenizer ids for 16");
  check_says(
      error_of([&] { report(model_of(tiny_size + 513)); }),
      "the model has 529 word embeddings, the tokenizer ids for 16 of them; expected at most 512 rows");
  CHECK(vocabulary_note("x", 100015, 102400, "t").size() > 0);
  check_says(error_of([&] { vocabulary_note("x", 32000, 49152, "t"); }), "expected at most 1000 rows");
  check_note(report(model_of(tiny_size, 3)),
             "the padding token's id is 0 in the tokenizer and 3 in config.json's \"pad_token_id\"");
  ModelConfig roberta = model_of(tiny_size, 1);
  roberta.family = ModelFamily::roberta;
  check_note(report(roberta), "the model is of the family roberta, the tokenizer is WordPiece");
  check_note(report(roberta), "from which the model counts its positions");
  write_file(folder / "tokenizer_config.json", R"({"model_max_length": 16})");
  check_note(report(model_of(tiny_size)),
             "--max-length is 32, tokenizer_config.json says \"model_max_length\" 16");
  CHECK(report(model_of(tiny_size), 16).notes.empty());
  write_file(folder / "added_tokens.json", R"({"drugx": 16})");
  check_says(
      error_of([&] { report(model_of(tiny_size)); }),
      "the tokenizer has ids up to 16 (\"drugx\"), the model's word embeddings only 16 rows. Either the "
      "embeddings were not resized");
}

TEST_CASE("the share of unknown tokens, and a word where it is high") {
  const auto tokenizer = load_tokenizer(tiny_folder("unknown"));
  Dataset data;
  data.name = "some/train";
  data.examples.push_back({"hello zzz world", std::nullopt, 0});
  data.examples.push_back({"hello", "world yyy [UNK]", 0});
  const EncodedDataset encoded(data, *tokenizer, 32);
  CHECK(encoded.unknown() == 3);
  CHECK(encoded.unknown_share() == doctest::Approx(3.0 / 7));
  check_says(encoded.unknown_warning(),
             "some/train: 42.9 % of the text is the unknown token (3 of 7 tokens)");
  check_says(encoded.unknown_warning(), "do_lower_case");
  const EncodedDataset cut(data, *tokenizer, 4, 1);  // of what the model is given
  CHECK(cut.unknown_share() == doctest::Approx(0.5));

  data.examples.assign(19, {"hello", std::nullopt, 0});
  data.examples.push_back({"zzz", std::nullopt, 0});
  CHECK(EncodedDataset(data, *tokenizer, 32).unknown_warning().empty());  // 5 % is not above 5 %
  data.examples.pop_back();
  data.examples.back().a = "zzz";
  CHECK_FALSE(EncodedDataset(data, *tokenizer, 32).unknown_warning().empty());
  data.examples = {{"", std::nullopt, 0}};
  CHECK(EncodedDataset(data, *tokenizer, 32).unknown_share() == 0);

  const auto bpe = fresh_folder("unknown_bpe");
  for (const char* file : {"vocab.json", "merges.txt"})
    write_file(bpe / file, small_bpe_file(file));
  data.examples = {{"<unk>hello", std::nullopt, 0}};
  CHECK(EncodedDataset(data, *load_tokenizer(bpe), 32).unknown() == 1);
}

TEST_CASE("a model of one token type gets zeros for the second sentence") {
  const auto tokenizer = load_tokenizer(tiny_folder("types"));
  Dataset data;
  data.name = "pairs";
  data.examples.push_back({"hello", "world", 0});
  const auto types = [&](index_t known) {
    const EncodedDataset encoded(data, *tokenizer, 32, 0, known);
    Batch batch;
    encoded.add_to(batch, 0, Padding::unpadded);
    CHECK(encoded.untyped() == (known == 1 ? 1 : 0));
    return batch.type_ids;
  };
  CHECK(types(2) == Ids{0, 0, 0, 1, 1});
  CHECK(types(1) == Ids{0, 0, 0, 0, 0});
}
