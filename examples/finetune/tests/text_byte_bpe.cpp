// RoBERTa's tokenizer: against transformers' (goldens by golden/make_tokenizer_goldens.py), against
// merges done by hand, and what it reads from files and refuses.
#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/split_patterns.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;
using Merges = ByteBpeTokenizer::Merges;

namespace {

const std::filesystem::path small_bpe = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden/glue/small_bpe";

ByteBpeTokenizer small_tokenizer(const ByteBpeOptions& options = {}) {
  return ByteBpeTokenizer::from_vocab(small_bpe / "vocab.json", small_bpe / "merges.txt", options);
}

/// The bytes' characters, as GPT-2 lists them: those that can be printed, then the others from U+0100.
std::vector<std::string> alphabet() {
  std::map<int, char32_t> characters;
  for (int byte = '!'; byte <= '~'; ++byte)
    characters[byte] = static_cast<char32_t>(byte);
  for (int byte = 0xA1; byte <= 0xAC; ++byte)
    characters[byte] = static_cast<char32_t>(byte);
  for (int byte = 0xAE; byte <= 0xFF; ++byte)
    characters[byte] = static_cast<char32_t>(byte);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    if (!characters.contains(byte)) characters[byte] = next++;
  }
  std::vector<std::string> out;
  for (const auto& [byte, character] : characters)
    out.push_back(encode_utf8(std::u32string(1, character)));
  return out;
}

/// <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4, the bytes from 5, the merges' results from 261.
constexpr std::int32_t first_byte = 5;
constexpr std::int32_t first_merge = 261;
const Merges tiny_merges{{"l", "o"},     {"lo", "w"}, {"e", "r"}, {"Ġ", "low"},
                         {"Ġlow", "er"}, {"w", "er"}, {"Ã", "©"}};

std::int32_t byte_id(char c) {
  return first_byte + static_cast<unsigned char>(c);
}

Json tiny_vocab(const Merges& merges = tiny_merges) {
  Json vocab{{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}, {"<mask>", 4}};
  const auto append = [&](const std::string& token) {
    const std::size_t id = vocab.size();
    vocab.emplace(token, id);
  };
  for (const std::string& character : alphabet())
    append(character);
  for (const auto& [left, right] : merges)
    append(left + right);
  return vocab;
}

std::string merges_text(const Merges& merges = tiny_merges) {
  std::string out = "#version: 0.2\n";
  for (const auto& [left, right] : merges)
    out.append(left).append(" ").append(right).append("\n");
  return out;
}

ByteBpeTokenizer tiny(const Merges& merges = tiny_merges, const ByteBpeOptions& options = {},
                      std::vector<AddedToken> added = {}) {
  std::vector<std::pair<std::string, std::int32_t>> vocabulary;
  const Json vocab = tiny_vocab(merges);
  for (const auto& [token, id] : vocab.items())
    vocabulary.emplace_back(token, id.get<std::int32_t>());
  return ByteBpeTokenizer(std::move(vocabulary), merges, options, std::move(added));
}

/// A folder as fairseq's models have it.
std::filesystem::path write_folder(std::string_view name, const Json& vocab, std::string_view merges) {
  auto folder = fresh_folder(name);
  write_file(folder / "vocab.json", vocab.dump());
  write_file(folder / "merges.txt", merges);
  return folder;
}

Json added_token(int id, const char* content, bool lstrip = false) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", lstrip},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

/// A tokenizer.json as transformers writes it.
Json tiny_json() {
  Json merges = Json::array();
  for (const auto& [left, right] : tiny_merges)
    merges.push_back(Json::array({left, right}));
  return {
      {"version", "1.0"},
      {"added_tokens",
       {added_token(0, "<s>"), added_token(1, "<pad>"), added_token(2, "</s>"), added_token(3, "<unk>"),
        added_token(4, "<mask>", true)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor",
       {{"type", "RobertaProcessing"}, {"sep", {"</s>", 2}}, {"cls", {"<s>", 0}}, {"trim_offsets", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", ""},
        {"end_of_word_suffix", ""},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", tiny_vocab()},
        {"merges", merges}}}};
}

std::string joined_tokens(const ByteBpeTokenizer& tokenizer, std::string_view text) {
  std::string out;
  for (const std::int32_t id : tokenizer.tokenize_ids(text))
    out += (out.empty() ? "" : " ") + tokenizer.token_of(id);
  return out;
}

/// "a|b c" for the words "a" and "b c".
std::string joined_words(std::string_view text) {
  std::string out;
  for (const std::string_view word : split_words(text, SplitPattern::gpt2))
    out.append(out.empty() ? "" : "|").append(word);
  return out;
}

}  // namespace

TEST_CASE("words of GPT-2's pattern") {
  CHECK(joined_words("").empty());
  CHECK(joined_words("Hello world") == "Hello| world");
  CHECK(joined_words("  a  b ") == " | a| | b| ");
  CHECK(joined_words("a   ") == "a|   ");
  CHECK(joined_words("a\t\tb\n") == "a|\t|\t|b|\n");
  CHECK(joined_words(" \u00a0b") == " |\u00a0|b");
  CHECK(joined_words("I'm he'll DON'T ''t") == "I|'m| he|'ll| DON|'|T| ''|t");
  CHECK(joined_words(" 's !'s") == " '|s| !'|s");
  CHECK(joined_words("ab12 34cd!? ?") == "ab|12| 34|cd|!?| ?");
  CHECK(joined_words("٣x½") == "٣|x|½");
  CHECK(joined_words("e\u0301中国。") == "e|\u0301|中国|。");
  check_says(error_of([] { split_words("ab\xC3", SplitPattern::gpt2); }), "byte 2 of 3 is 0xC3");
}

TEST_CASE("hard strings are cut into the words that transformers cuts them into") {
  const Json golden = read_golden("roberta_hard_strings.json");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  REQUIRE(strings.size() > 300);
  for (std::size_t i = 0; i < strings.size(); ++i) {
    CAPTURE(strings[i]);
    std::vector<std::size_t> lengths;
    std::string together;
    for (const std::string_view word : split_words(strings[i], SplitPattern::gpt2)) {
      lengths.push_back(decode_utf8(word).size());
      together += word;
    }
    CHECK(lengths == golden.at("word_lengths").at(i).get<std::vector<std::size_t>>());
    CHECK(together == strings[i]);
  }
}

TEST_CASE("every code point is the letter, number or space that transformers takes it for") {
  const auto hashes =
      read_golden("roberta_hard_strings.json").at("kind_hashes").get<std::vector<std::string>>();
  REQUIRE(hashes.size() == 17);
  for (char32_t plane = 0; plane < 17; ++plane) {
    std::uint64_t hash = 0xCBF29CE484222325U;
    for (char32_t c = plane << 16U; c < (plane + 1) << 16U; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      const bool letter = unicode::is_letter(c);
      const bool number = unicode::is_number(c);
      const char kind = letter ? 'l' : number ? 'n' : unicode::is_white_space(c) ? 's' : 'o';
      const std::array<unsigned, 4> bytes{static_cast<unsigned char>(kind), 0, 0, 0};
      for (const unsigned byte : bytes)
        hash = (hash ^ byte) * 0x100000001B3U;
    }
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
    CAPTURE(static_cast<unsigned>(plane));
    CHECK(std::string(text) == hashes[plane]);
  }
}

TEST_CASE("hard strings give transformers' ids, under every option") {
  const Json golden = read_golden("roberta_hard_strings.json");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  for (const auto& entry : golden.at("small_bpe").items()) {
    const std::string& name = entry.key();
    const Json& given = entry.value().at("options");
    const bool lstrip = given.at("lstrip").get<bool>();
    const ByteBpeOptions options{.add_prefix_space = given.value("add_prefix_space", false)};
    ByteBpeTokenizer tokenizer = small_tokenizer(options);
    if (!lstrip) {
      const auto folder = fresh_folder("plain_mask");
      for (const char* file : {"vocab.json", "merges.txt"})
        std::filesystem::copy_file(small_bpe / file, folder / file);
      const Json mask = added_token(*tokenizer.mask_id(), "<mask>");
      const Json config{{"added_tokens_decoder", {{std::to_string(*tokenizer.mask_id()), mask}}}};
      write_file(folder / "tokenizer_config.json", config.dump());
      tokenizer = ByteBpeTokenizer::from_directory(folder);
    }
    for (std::size_t i = 0; i < strings.size(); ++i) {
      CAPTURE(name);
      CAPTURE(strings[i]);
      CHECK(tokenizer.tokenize_ids(strings[i]) == entry.value().at("ids").at(i).get<Ids>());
    }
  }
}

TEST_CASE("sentences and pairs are cut as transformers cuts them") {
  const Json golden = read_golden("roberta_hard_strings.json");
  const auto tokenizer = small_tokenizer();
  const auto check = [&](const Encoding& encoding, const Json& expected) {
    CHECK(encoding.ids == expected.at(0).get<Ids>());
    CHECK(encoding.type_ids == Ids(encoding.ids.size(), 0));
  };
  const auto pairs = golden.at("pairs").get<std::vector<std::pair<std::string, std::string>>>();
  for (const auto& entry : golden.at("pair_encodings").items()) {
    const std::string& length = entry.key();
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      CAPTURE(length);
      CAPTURE(i);
      check(tokenizer.encode(pairs[i].first, pairs[i].second, std::stoul(length)), entry.value().at(i));
    }
  }
  const auto singles = golden.at("singles").get<std::vector<std::string>>();
  for (const auto& entry : golden.at("single_encodings").items()) {
    const std::string& length = entry.key();
    for (std::size_t i = 0; i < singles.size(); ++i) {
      CAPTURE(length);
      CAPTURE(i);
      check(tokenizer.encode(singles[i], std::nullopt, std::stoul(length)), entry.value().at(i));
    }
  }
}

TEST_CASE("hard strings give roberta-base's ids") {
  const char* folder = std::getenv("SPARSEGRAD_VOCAB_DIR");
  if (folder == nullptr) {
    MESSAGE(
        "skipped: SPARSEGRAD_VOCAB_DIR is not set (a folder with roberta-base/vocab.json and merges.txt)");
    return;
  }
  const Json golden = read_golden("roberta_hard_strings.json");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  const auto directory = std::filesystem::path(folder) / "roberta-base";
  const auto tokenizer = ByteBpeTokenizer::from_vocab(directory / "vocab.json", directory / "merges.txt");
  CHECK(tokenizer.vocab_size() == 50265);
  CHECK(tokenizer.cls_id() == 0);
  CHECK(tokenizer.pad_id() == 1);
  CHECK(tokenizer.sep_id() == 2);
  CHECK(tokenizer.unk_id() == 3);
  CHECK(tokenizer.mask_id() == 50264);
  CHECK(tokenizer.encode("Hello world", " Hello").ids == Ids{0, 31414, 232, 2, 2, 20920, 2});
  for (std::size_t i = 0; i < strings.size(); ++i) {
    CAPTURE(strings[i]);
    CHECK(tokenizer.tokenize_ids(strings[i]) == golden.at("roberta_base_ids").at(i).get<Ids>());
  }
}

TEST_CASE("bytes and merges") {
  const auto tokenizer = tiny();
  CHECK(tokenizer.vocab_size() == first_merge + tiny_merges.size());
  CHECK(joined_tokens(tokenizer, "lower low slow") == "low er Ġlow Ġ s low");
  CHECK(joined_tokens(tokenizer, "x lower") == "x Ġlower");
  CHECK(joined_tokens(tokenizer, "wer") == "wer");
  CHECK(joined_tokens(tokenizer, "é") == "Ã©");
  CHECK(joined_tokens(tokenizer, "low'er") == "low ' er");
  CHECK(tokenizer.tokenize_ids(std::string_view("\0\x7f\n\xc2\x80", 5)) ==
        Ids{byte_id('\0'), byte_id('\x7f'), byte_id('\n'), byte_id('\xc2'), byte_id('\x80')});
  CHECK(tokenizer.tokenize_ids("").empty());
  CHECK(tokenizer.id_of("Ġlow") == first_merge + 3);
  CHECK_FALSE(tokenizer.id_of("high").has_value());
  check_says(error_of([&] { tokenizer.token_of(999); }), "found 999");
}

TEST_CASE("the merge of lowest rank goes first, the leftmost of several") {
  CHECK(joined_tokens(tiny({{"a", "b"}, {"b", "c"}}), "abc") == "ab c");
  CHECK(joined_tokens(tiny({{"b", "c"}, {"a", "b"}}), "abc") == "a bc");
  CHECK(joined_tokens(tiny({{"a", "a"}}), "aaaaa") == "aa aa a");
  // "aa" once made can be merged before the second pair of "a" is.
  CHECK(joined_tokens(tiny({{"aa", "a"}, {"a", "a"}}), "aaaa") == "aaa a");
  CHECK(joined_tokens(tiny({{"a", "b"}, {"c", "d"}, {"ab", "cd"}, {"abcd", "abcd"}}), "abcdabcdab") ==
        "abcdabcd ab");
}

TEST_CASE("a word of a million letters takes no quadratic time") {
  const auto tokenizer = tiny({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}});
  const Ids ids = tokenizer.tokenize_ids(std::string((1U << 20U) + 1, 'a'));
  REQUIRE(ids.size() == (1U << 17U) + 1);
  CHECK(ids.back() == byte_id('a'));
  CHECK((Ids(ids.begin(), ids.end() - 1) == Ids(ids.size() - 1, first_merge + 2)));
}

TEST_CASE("special tokens around sentences, and in them") {
  const auto tokenizer = tiny();
  CHECK(tokenizer.encode("low").ids == Ids{0, first_merge + 1, 2});
  CHECK(tokenizer.encode("low", "").ids == Ids{0, first_merge + 1, 2, 2, 2});
  CHECK(tokenizer.encode("low", "low").ids == Ids{0, first_merge + 1, 2, 2, first_merge + 1, 2});
  CHECK(tokenizer.encode("low", "low").type_ids == Ids(6, 0));
  CHECK(joined_tokens(tokenizer, "a</s>low <s> \t<mask> low<mask>") == "a </s> low Ġ <s> <mask> Ġlow <mask>");
  CHECK(joined_tokens(tokenizer, "<MASK") == "< M A S K");
  CHECK(joined_tokens(tiny(tiny_merges, {}, {{.content = "<mask>", .id = 4}}), "a <mask>") == "a Ġ <mask>");
  CHECK(joined_tokens(tiny(tiny_merges, {}, {{.content = "<new>", .id = 268, .rstrip = true}}),
                      "a<new> low") == "a <new> low");
  // Those of the raw text are found first, though another starts further left.
  CHECK(joined_tokens(tiny(tiny_merges, {},
                           {{.content = "x<", .id = 268, .normalized = true},
                            {.content = "<y>", .id = 269, .normalized = false}}),
                      "x<y>x<z") == "x <y> x< z");
}

TEST_CASE("a space before the first word") {
  const auto tokenizer = tiny(tiny_merges, {.add_prefix_space = true});
  CHECK(joined_tokens(tokenizer, "lower") == "Ġlower");
  CHECK(joined_tokens(tokenizer, " low") == "Ġlow");
  CHECK(joined_tokens(tokenizer, "\tlow<s>low") == "Ġ ĉ low <s> Ġlow");
  CHECK(tokenizer.tokenize_ids("").empty());
}

TEST_CASE("lengths that leave no room are refused") {
  const auto tokenizer = tiny();
  CHECK(tokenizer.encode("low", std::nullopt, 2).ids == Ids{0, 2});
  CHECK(tokenizer.encode("low", "low", 4).ids == Ids{0, 2, 2, 2});
  CHECK(tokenizer.encode("aaa", "bbbb", 7).ids.size() == 7);
  check_says(error_of([&] { tokenizer.encode("low", std::nullopt, 1); }), "at least 2");
  check_says(error_of([&] { tokenizer.encode("low", "low", 3); }), "at least 4");
}

TEST_CASE("text that is not UTF-8 is refused, with the byte") {
  const auto tokenizer = tiny();
  check_says(error_of([&] { tokenizer.tokenize_ids("abc\xFF"); }), "byte 3 of 4 is 0xFF");
  check_says(error_of([&] { tokenizer.tokenize_ids("low <s>\xED\xA0\x80"); }), "byte 7 of 10 is 0xED");
  check_says(error_of([&] { tokenizer.encode("fine", "caf\xC3"); }), "byte 3");
}

TEST_CASE("folders with vocab.json and merges.txt") {
  const auto folder = write_folder("folder", tiny_vocab(), merges_text());
  CHECK(load_tokenizer(folder)->encode("low low").ids == Ids{0, first_merge + 1, first_merge + 3, 2});
  CHECK(load_tokenizer(folder)->pad_id() == 1);
  CHECK(load_tokenizer(folder)->vocab_size() == first_merge + tiny_merges.size());
  CHECK(load_tokenizer(small_bpe)->vocab_size() == 610);

  SUBCASE("lines that end as Windows' do, no line of the version") {
    write_file(folder / "merges.txt", "l o\r\nlo w");
    CHECK(load_tokenizer(folder)->tokenize_ids("low") == Ids{first_merge + 1});
  }
  SUBCASE("no merges at all") {
    write_file(folder / "merges.txt", "#version: 0.2\n");
    CHECK(load_tokenizer(folder)->tokenize_ids("lo") == Ids{byte_id('l'), byte_id('o')});
  }
  SUBCASE("tokenizer_config.json goes before") {
    write_file(folder / "tokenizer_config.json",
               R"({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true, "cls_token": "<unk>",
                   "added_tokens_decoder": {"4": {"content": "<mask>", "lstrip": false, "special": true},
                                            "268": {"content": "<new>", "special": true}}})");
    const auto tokenizer = load_tokenizer(folder);
    CHECK(tokenizer->encode("low").ids == Ids{3, first_merge + 3, 2});
    CHECK(tokenizer->tokenize_ids(" <mask><new>") == Ids{byte_id(' '), 4, 268});
    CHECK(tokenizer->vocab_size() == 269);
  }
  SUBCASE("settings that would be ignored are refused") {
    const auto error = [&](const char* config) {
      write_file(folder / "tokenizer_config.json", config);
      return error_of([&] { load_tokenizer(folder); });
    };
    check_says(error(R"({"tokenizer_class": "BertTokenizer"})"),
               "expected a byte-level BPE tokenizer such as RobertaTokenizer, found the class BertTokenizer");
    check_says(error(R"({"truncation_side": "left"})"), "expected the \"truncation_side\" right, found left");
    check_says(error(R"({"add_prefix_space": 1})"), "\"add_prefix_space\" has an unexpected type, number");
    check_says(error(R"({"mask_token": 1})"), "\"mask_token\" has an unexpected type, number");
    check_says(error("[]"), "tokenizer_config.json: expected a JSON object, found array");
  }
  SUBCASE("one file without the other") {
    std::filesystem::remove(folder / "merges.txt");
    check_says(error_of([&] { load_tokenizer(folder); }), "merges.txt: no such file");
    write_file(folder / "merges.txt", merges_text());
    std::filesystem::remove(folder / "vocab.json");
    check_says(error_of([&] { load_tokenizer(folder); }), "vocab.json: no such file");
  }
}

TEST_CASE("malformed vocab.json") {
  const auto error = [](const std::string& vocab) {
    const auto folder = write_folder("vocab_error", {}, merges_text());
    write_file(folder / "vocab.json", vocab);
    return error_of([&] { load_tokenizer(folder); });
  };
  const auto changed = [&](auto change) {
    Json vocab = tiny_vocab();
    change(vocab);
    return error(vocab.dump());
  };
  check_says(error(""), "vocab.json: is empty");
  check_says(error("{\"a\": "), "vocab.json: expected JSON, found");
  check_says(error("{\"\xFF\": 1}"), "vocab.json: expected JSON, found");
  check_says(error("[1]"), "vocab.json: expected a JSON object of tokens and ids, found array");
  check_says(error("{}"), "vocab.json: the vocabulary is empty");
  check_says(error(R"({"a": 1, "a": 2})"), "vocab.json: \"a\" stands twice");
  check_says(changed([](Json& j) { j["lo"] = "x"; }), "vocab.json: the id of \"lo\" is \"x\"");
  check_says(changed([](Json& j) { j["lo"] = -1; }), "vocab.json: the id of \"lo\" is -1");
  check_says(changed([](Json& j) { j["lo"] = 1.5; }), "vocab.json: the id of \"lo\" is 1.5");
  check_says(changed([](Json& j) { j["lo"] = 3; }),
             "vocab.json: the id 3 belongs to both \"<unk>\" and \"lo\"");
  check_says(changed([](Json& j) { j["lo"] = 300; }),
             "vocab.json: expected a token for every id below 301, found none for 261");
  const auto without = [&](const std::string& token) {
    return changed([&](Json& j) {
      j["x1"] = j[token];
      j.erase(token);
    });
  };
  check_says(without("A"), "vocab.json: expected a token for every byte, found no \"A\" for 0x41");
  check_says(without("Ġ"), "found no \"Ġ\" for 0x20");
  check_says(without("<s>"), "vocab.json: expected the first token \"<s>\" among the 268 tokens, found none");
  check_says(without("</s>"), "expected the separating token \"</s>\"");
  check_says(without("<pad>"), "expected the padding token \"<pad>\"");
  check_says(without("<unk>"), "expected the unknown token \"<unk>\"");
}

TEST_CASE("a vocabulary without a mask token has none") {
  Json vocab = tiny_vocab();
  vocab["x1"] = vocab["<mask>"];
  vocab.erase("<mask>");
  const auto folder = write_folder("no_mask", vocab, merges_text());
  const auto tokenizer = ByteBpeTokenizer::from_directory(folder);
  CHECK_FALSE(tokenizer.mask_id().has_value());
  CHECK(joined_tokens(tokenizer, " <mask>") == "Ġ < m a s k >");
}

TEST_CASE("malformed merges.txt") {
  const auto error = [](std::string_view merges) {
    const auto folder = write_folder("merges_error", tiny_vocab(), merges);
    return error_of([&] { load_tokenizer(folder); });
  };
  check_says(error(""), "merges.txt: is empty");
  check_says(error("#version: 0.2\nl o\nlow\n"),
             "merges.txt:3: expected two tokens with a space between them, found \"low\"");
  check_says(error("l o\nlo w er\n"), "merges.txt:2: expected two tokens");
  check_says(error("l o\n\nlow\n"),
             "merges.txt:3: expected two tokens with a space between them, found \"low\"");
  check_says(error(" o\n"), "merges.txt:1: expected two tokens");
  check_says(error("l \n"), "merges.txt:1: expected two tokens");
  check_says(error("l o\n\xFF o\n"), "merges.txt:2: expected UTF-8");
  check_says(error("#version: 0.2\nl o\nhigh er\n"),
             "merges.txt: merge 2 of \"high\" and \"er\": \"high\" is not in the vocabulary");
  check_says(error("lo high\n"), "merge 1 of \"lo\" and \"high\": \"high\" is not in the vocabulary");
  check_says(error("l e\n"), "merge 1 of \"l\" and \"e\": \"le\" is not in the vocabulary");
  check_says(error("l o\nlo w\nl o\n"), "merge 3 of \"l\" and \"o\": stands already as merge 1");
}

TEST_CASE("tokenizer.json") {
  const auto folder = fresh_folder("json");
  const auto load = [&](const Json& json) {
    write_file(folder / "tokenizer.json", json.dump());
    return load_tokenizer(folder);
  };
  const Ids expected{0, first_merge + 1, 4, first_merge + 3, 2};
  CHECK(load(tiny_json())->encode("low <mask> low").ids == expected);
  CHECK(ByteBpeTokenizer::from_tokenizer_json(folder / "tokenizer.json").encode("low <mask> low").ids ==
        expected);

  Json older = tiny_json();  // as old versions wrote it
  older["model"].erase("type");
  older["model"]["merges"] = Json::array();
  for (const auto& [left, right] : tiny_merges)
    older["model"]["merges"].push_back(std::string(left).append(" ").append(right));
  CHECK(load(older)->encode("low <mask> low").ids == expected);

  Json other = tiny_json();
  other["pre_tokenizer"]["add_prefix_space"] = true;
  other["added_tokens"][4]["lstrip"] = false;
  other["added_tokens"].push_back(added_token(268, "<new>"));
  CHECK(load(other)->tokenize_ids("low <mask><new>") == Ids{first_merge + 3, byte_id(' '), 4, 268});

  const auto item = [](const char* kind, const char* id) {
    return Json{{kind, {{"id", id}, {"type_id", 0}}}};
  };
  const Json s = item("SpecialToken", "<s>");
  const Json end = item("SpecialToken", "</s>");
  const Json a = item("Sequence", "A");
  const Json b = item("Sequence", "B");
  Json templates = tiny_json();
  templates["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", {s, a, end}}, {"pair", {s, a, end, end, b, end}}};
  CHECK(load(templates)->encode("low <mask> low").ids == expected);
  templates["post_processor"]["pair"].erase(3);
  check_says(error_of([&] { load(templates); }),
             "expected RoBERTa's templates \"<s>:0 A:0 </s>:0\" and \"<s>:0 A:0 </s>:0 </s>:0 B:0 </s>:0\"");
}

TEST_CASE("malformed tokenizer.json") {
  const auto changed = [](auto change) {
    Json json = tiny_json();
    change(json);
    const auto folder = fresh_folder("json_error");
    write_file(folder / "tokenizer.json", json.dump());
    std::string error = error_of([&] { load_tokenizer(folder); });
    check_says(error, "tokenizer.json: ");
    return error;
  };
  check_says(changed([](Json& j) { j.erase("model"); }), "expected an object \"model\", found none");
  check_says(changed([](Json& j) { j["model"]["type"] = "Unigram"; }),
             "expected a WordPiece or BPE model, found Unigram");
  check_says(changed([](Json& j) { j["model"]["vocab"] = 3; }), "expected an object \"vocab\", found number");
  check_says(changed([](Json& j) { j["model"]["vocab"]["lo"] = 300; }), "found none for 261");
  check_says(changed([](Json& j) { j["model"]["vocab"]["lo"] = 0; }), "the id 0 belongs to both");
  check_says(changed([](Json& j) { j["model"].erase("merges"); }),
             "expected \"merges\" to be an array, found null");
  check_says(changed([](Json& j) { j["model"]["merges"][1] = "low"; }),
             R"(expected merge 2 as "a b" or ["a", "b"], found "low")");
  check_says(changed([](Json& j) { j["model"]["merges"][1] = "l o w"; }), "expected merge 2");
  check_says(changed([](Json& j) { j["model"]["merges"][0] = {"l", "o", "w"}; }), "expected merge 1");
  check_says(changed([](Json& j) { j["model"]["merges"][0] = {"l", 1}; }), "expected merge 1");
  check_says(changed([](Json& j) {
               j["model"]["merges"][0] = {"l", "x"};
             }),
             "merge 1 of \"l\" and \"x\": \"lx\" is not in the vocabulary");
  check_says(changed([](Json& j) { j["model"]["dropout"] = 0.1; }),
             "expected a model without dropout, found 0.1");
  check_says(changed([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
             "expected a model without end_of_word_suffix, found \"</w>\"");
  check_says(changed([](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }),
             "without continuing_subword_prefix");
  check_says(changed([](Json& j) { j["model"]["byte_fallback"] = true; }),
             "without byte_fallback, found true");
  check_says(changed([](Json& j) { j["model"]["ignore_merges"] = true; }),
             "without ignore_merges, found true");
  check_says(changed([](Json& j) {
               j["normalizer"] = {{"type", "NFC"}};
             }),
             "expected the normalizer none, found NFC");
  check_says(changed([](Json& j) {
               j["pre_tokenizer"] = {{"type", "Whitespace"}};
             }),
             "expected the pre_tokenizer ByteLevel, found Whitespace");
  check_says(changed([](Json& j) { j["pre_tokenizer"]["use_regex"] = false; }), "\"use_regex\" is false");
  check_says(changed([](Json& j) { j["post_processor"]["type"] = "ByteLevel"; }),
             "expected the post_processor TemplateProcessing or RobertaProcessing or none, found ByteLevel");
  // As tokenizers' own example of a byte-level BPE has it: another pair than RoBERTa's.
  const std::string bert = changed([](Json& j) { j["post_processor"]["type"] = "BertProcessing"; });
  check_says(
      bert,
      "the post_processor is BertProcessing, which joins the sentences of a pair otherwise than RoBERTa");
  check_says(bert, R"(put in its place: {"add_prefix_space":false,"cls":["<s>",0],"sep":["</s>",2],)"
                   R"("trim_offsets":true,"type":"RobertaProcessing"})");
  check_says(changed([](Json& j) { j["post_processor"].erase("cls"); }), "malformed post_processor");
  check_says(changed([](Json& j) { j["post_processor"]["cls"][1] = 2; }),
             "the post_processor has the id 2 for \"<s>\", whose id in the vocabulary is 0");
  check_says(changed([](Json& j) { j["added_tokens"][4]["id"] = 5; }), "the id 5 belongs to both");
  check_says(changed([](Json& j) { j["added_tokens"].push_back(added_token(270, "<new>")); }),
             "expected a token for every id below 271, found none for 268");
}

TEST_CASE("WordPiece goes before vocab.json where there is vocab.txt") {
  const auto folder = write_folder("both", tiny_vocab(), merges_text());
  write_file(folder / "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nlow\n");
  CHECK(load_tokenizer(folder)->encode("low").ids == Ids{2, 4, 3});
  write_file(folder / "tokenizer.json", tiny_json().dump());
  CHECK(load_tokenizer(folder)->encode("low").ids == Ids{0, first_merge + 1, 2});
}
