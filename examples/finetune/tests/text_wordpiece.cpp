// The tokenizer against transformers' (goldens by golden/make_tokenizer_goldens.py).
#include "tokenizers/wordpiece.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "tokenizers/utf8.hpp"

using namespace sparsegrad::finetune;
using sparsegrad::finetune::test::check_says;
using sparsegrad::finetune::test::error_of;
using sparsegrad::finetune::test::read_golden;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

namespace {

const std::filesystem::path small_vocab =
    std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden/glue/small_vocab.txt";

WordPieceOptions options_of(const Json& golden) {
  WordPieceOptions options;
  options.do_lower_case = golden.value("do_lower_case", true);
  if (golden.contains("strip_accents")) options.strip_accents = golden.at("strip_accents").get<bool>();
  options.tokenize_chinese_chars = golden.value("tokenize_chinese_chars", true);
  return options;
}

std::string joined_tokens(const WordPieceTokenizer& tokenizer, const Ids& ids) {
  std::string out;
  for (const std::int32_t id : ids)
    out += (out.empty() ? "" : " ") + tokenizer.token_of(id);
  return out;
}

/// A tokenizer of a few tokens.
WordPieceTokenizer tiny(std::vector<std::string> pieces, WordPieceOptions options = {},
                        std::vector<AddedToken> added = {}) {
  std::vector<std::pair<std::string, std::int32_t>> vocabulary;
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})
    pieces.insert(pieces.begin(), special);
  for (std::string& piece : pieces)
    vocabulary.emplace_back(std::move(piece), static_cast<std::int32_t>(vocabulary.size()));
  return WordPieceTokenizer(std::move(vocabulary), options, std::move(added));
}

}  // namespace

TEST_CASE("hard strings give transformers' tokens, under every option") {
  const Json golden = read_golden("hard_strings.json");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  REQUIRE(strings.size() > 200);
  for (const auto& entry : golden.at("small_vocab").items()) {
    const std::string& name = entry.key();
    const Json& expected = entry.value();
    const auto tokenizer = WordPieceTokenizer::from_vocab(small_vocab, options_of(expected.at("options")));
    const auto tokens = expected.at("tokens").get<std::vector<std::string>>();
    REQUIRE(tokens.size() == strings.size());
    for (std::size_t i = 0; i < strings.size(); ++i) {
      CAPTURE(name);
      CAPTURE(i);
      CAPTURE(strings[i]);
      CHECK(joined_tokens(tokenizer, tokenizer.tokenize_ids(strings[i])) == tokens[i]);
    }
  }
}

TEST_CASE("sentences and pairs are cut as transformers cuts them") {
  const Json golden = read_golden("hard_strings.json");
  const auto tokenizer = WordPieceTokenizer::from_vocab(small_vocab);
  const auto check = [&](const Encoding& encoding, const Json& expected) {
    CHECK(encoding.ids == expected.at(0).get<Ids>());
    CHECK(encoding.type_ids == expected.at(1).get<Ids>());
  };
  const auto pairs = golden.at("pairs").get<std::vector<std::pair<std::string, std::string>>>();
  for (const auto& entry : golden.at("pair_encodings").items()) {
    const std::string& length = entry.key();
    const Json& encodings = entry.value();
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      CAPTURE(length);
      CAPTURE(i);
      check(tokenizer.encode(pairs[i].first, pairs[i].second, std::stoul(length)), encodings.at(i));
    }
  }
  const auto singles = golden.at("singles").get<std::vector<std::string>>();
  for (const auto& entry : golden.at("single_encodings").items()) {
    const std::string& length = entry.key();
    const Json& encodings = entry.value();
    for (std::size_t i = 0; i < singles.size(); ++i) {
      CAPTURE(length);
      CAPTURE(i);
      check(tokenizer.encode(singles[i], std::nullopt, std::stoul(length)), encodings.at(i));
    }
  }
}

TEST_CASE("hard strings give bert-base-uncased's ids") {
  const char* folder = std::getenv("SPARSEGRAD_VOCAB_DIR");
  if (folder == nullptr) {
    MESSAGE("skipped: SPARSEGRAD_VOCAB_DIR is not set (a folder with bert-base-uncased/vocab.txt)");
    return;
  }
  const Json golden = read_golden("hard_strings.json");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  const auto directory = std::filesystem::path(folder) / "bert-base-uncased";
  std::vector<WordPieceTokenizer> tokenizers{WordPieceTokenizer::from_vocab(directory / "vocab.txt")};
  if (std::filesystem::exists(directory / "tokenizer.json")) {
    tokenizers.push_back(WordPieceTokenizer::from_directory(directory));
  } else {
    MESSAGE("tokenizer.json is not there, vocab.txt alone is tested");
  }
  for (const WordPieceTokenizer& tokenizer : tokenizers) {
    CHECK(tokenizer.vocab_size() == 30522);
    CHECK(tokenizer.pad_id() == 0);
    CHECK(tokenizer.unk_id() == 100);
    CHECK(tokenizer.cls_id() == 101);
    CHECK(tokenizer.sep_id() == 102);
    CHECK(tokenizer.mask_id() == 103);
    for (std::size_t i = 0; i < strings.size(); ++i) {
      CAPTURE(strings[i]);
      CHECK(tokenizer.tokenize_ids(strings[i]) == golden.at("bert_base_uncased_ids").at(i).get<Ids>());
    }
  }
}

TEST_CASE("longest first: what is kept of a pair") {
  const auto kept = [](std::size_t a, std::size_t b, std::size_t limit) {
    const PairLengths lengths = truncate_longest_first(a, b, limit);
    return std::pair(lengths.a, lengths.b);
  };
  CHECK(kept(3, 4, 7) == std::pair<std::size_t, std::size_t>(3, 4));
  CHECK(kept(3, 9, 7) == std::pair<std::size_t, std::size_t>(3, 4));
  CHECK(kept(9, 3, 7) == std::pair<std::size_t, std::size_t>(4, 3));
  CHECK(kept(9, 9, 7) == std::pair<std::size_t, std::size_t>(3, 4));
  CHECK(kept(10, 9, 7) == std::pair<std::size_t, std::size_t>(4, 3));
  CHECK(kept(9, 9, 0) == std::pair<std::size_t, std::size_t>(0, 0));
  CHECK(kept(0, 9, 4) == std::pair<std::size_t, std::size_t>(0, 4));
}

TEST_CASE("lengths that leave no room are refused") {
  const auto tokenizer = WordPieceTokenizer::from_vocab(small_vocab);
  CHECK(tokenizer.encode("hello", std::nullopt, 2).ids == Ids{2, 3});
  check_says(error_of([&] { tokenizer.encode("hello", std::nullopt, 1); }), "at least 2");
  check_says(error_of([&] { tokenizer.encode("hello", "world", 2); }), "at least 3");
}

TEST_CASE("text that is not UTF-8 is refused, with the byte") {
  const auto tokenizer = WordPieceTokenizer::from_vocab(small_vocab);
  check_says(error_of([&] { tokenizer.tokenize_ids("abc\xFF"); }), "byte 3 of 4 is 0xFF");
  check_says(error_of([&] { tokenizer.encode("fine", "caf\xC3"); }), "byte 3");
  check_says(error_of([&] { tokenizer.normalize("\x80"); }), "byte 0");
  CHECK(find_invalid_utf8("\xC0\x80") == 0U);          // overlong
  CHECK(find_invalid_utf8("a\xED\xA0\x80") == 1U);     // a surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0U);  // above U+10FFFF
  CHECK(find_invalid_utf8("\xE0\x9F\xBF") == 0U);      // overlong
  CHECK(find_invalid_utf8("\xF0\x9F\x98") == 0U);      // cut off
  CHECK_FALSE(find_invalid_utf8("\xF4\x8F\xBF\xBF").has_value());
  CHECK_FALSE(find_invalid_utf8("").has_value());
  CHECK(encode_utf8(decode_utf8("aé中😀")) == "aé中😀");
}

TEST_CASE("words are looked up longest piece first") {
  const auto tokenizer = tiny({"un", "una", "##ffable", "##aff", "##able", "##f"});
  const auto tokens = [&](const char* text) {
    return joined_tokens(tokenizer, tokenizer.tokenize_ids(text));
  };
  CHECK(tokens("unaffable") == "una ##ffable");
  CHECK(tokens("unaff") == "una ##f ##f");
  CHECK(tokens("unaffx un") == "[UNK] un");  // one unknown piece makes the word unknown
  CHECK(tokenizer.id_of("##f").has_value());
  CHECK_FALSE(tokenizer.id_of("f").has_value());
  check_says(error_of([&] { tokenizer.token_of(99); }), "found 99");
}

TEST_CASE("words beyond the limit are unknown as a whole") {
  WordPieceOptions options;
  options.max_input_chars_per_word = 4;
  const auto tokenizer = tiny({"é", "##é", "e", "##e"}, options);
  CHECK(joined_tokens(tokenizer, tokenizer.tokenize_ids("eeee eeeee")) == "e ##e ##e ##e [UNK]");
}

TEST_CASE("added tokens") {
  const auto ids_of = [](const WordPieceTokenizer& tokenizer, const char* text) {
    return joined_tokens(tokenizer, tokenizer.tokenize_ids(text));
  };
  SUBCASE("the longest one at a place, before any splitting") {
    const auto tokenizer = tiny({"a"}, {}, {{.content = "<x>", .id = 10}, {.content = "<x><y>", .id = 11}});
    CHECK(ids_of(tokenizer, "a<x><y>a<x>") == "a <x><y> a <x>");
    CHECK(tokenizer.vocab_size() == 12);
  }
  SUBCASE("as words alone") {
    const auto tokenizer =
        tiny({"a", "fo", "##foo", "_", "##o"}, {}, {{.content = "foo", .id = 10, .single_word = true}});
    CHECK(tokenizer.tokenize_ids("foo") == Ids{10});
    CHECK(ids_of(tokenizer, "afoo") == "a ##foo");
    CHECK(ids_of(tokenizer, "foo_") == "fo ##o _");
    CHECK(tokenizer.tokenize_ids("foo.").front() == 10);
  }
  SUBCASE("with the space around them") {
    AddedToken token{.content = "QUX", .id = 9, .lstrip = true, .rstrip = true};
    const auto tokenizer = tiny({"a"}, {}, {token});
    CHECK(ids_of(tokenizer, "a \t\u3000QUX \u00a0 a") == "a QUX a");
  }
  SUBCASE("in the normalised text") {
    const auto tokenizer = tiny({"a"}, {}, {{.content = "Bazé", .id = 9, .normalized = true}});
    CHECK(ids_of(tokenizer, "a BAZE a baze\u0301") == "a Bazé a Bazé");
  }
}

TEST_CASE("a vocabulary without a mask token has none") {
  std::vector<std::pair<std::string, std::int32_t>> vocabulary{
      {"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 2}, {"[SEP]", 3}};
  const WordPieceTokenizer tokenizer(vocabulary, {});
  CHECK_FALSE(tokenizer.mask_id().has_value());
  CHECK(tokenizer.tokenize_ids("[MASK]") == Ids{1, 1, 1});
}
