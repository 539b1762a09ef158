// Causal tokenizers: ids and texts equal to those of the package `tokenizers` (golden/causal), from folders and GGUF.
#include "tokenizers/causal_tokenizer.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoints/gguf_tokenizer.hpp"
#include "files.hpp"

using namespace sparsegrad::finetune;
using test::check_says;
using test::error_of;
using test::fresh_folder;
using test::write_file;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

namespace {

const std::filesystem::path golden = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "causal";

Json read(const std::filesystem::path& file) {
  std::ifstream stream(file);
  REQUIRE(stream.good());
  return Json::parse(stream);
}

const Json& goldens() {
  static const Json all = read(golden / "strings.json");
  return all;
}

/// What comes of ids one by one.
std::string streamed(const CausalTokenizer& tokenizer, const Ids& ids) {
  StreamingDecoder stream(tokenizer, true);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string part = stream.push(id);
    CHECK_FALSE(find_invalid_utf8(part).has_value());
    text += part;
  }
  return text + stream.finish();
}

void check_strings(const CausalTokenizer& tokenizer, const std::string& name) {
  const Json& expected = goldens().at("tokenizers").at(name);
  const auto strings = goldens().at("strings").get<std::vector<std::string>>();
  CHECK(strings.size() > 300);
  for (std::size_t i = 0; i < strings.size(); ++i) {
    CAPTURE(strings[i]);
    const Ids ids = expected.at("parsed")[i].get<Ids>();
    CHECK(tokenizer.encode(strings[i], SpecialText::parsed) == ids);
    CHECK(tokenizer.encode(strings[i], SpecialText::plain) == expected.at("plain")[i].get<Ids>());
    const auto text = expected.at("decoded")[i].get<std::string>();
    CHECK(to_utf8(tokenizer.decode(ids, true)) == text);
    CHECK(streamed(tokenizer, ids) == text);
  }
}

std::string changed(const std::string& name, const std::function<void(Json&)>& change) {
  Json json = read(golden / name / "tokenizer.json");
  change(json);
  const auto folder = fresh_folder("changed");
  write_file(folder / "tokenizer.json", json.dump());
  std::string error = error_of([&] { load_causal_tokenizer(folder); });
  check_says(error, "tokenizer.json: ");
  return error;
}

}  // namespace

TEST_CASE("hard strings have the ids and texts of the package tokenizers") {
  for (const char* name : {"gpt2", "smollm2", "llama3", "qwen2"}) {
    CAPTURE(name);
    check_strings(*load_causal_tokenizer(golden / name), name);
  }
}

TEST_CASE("words of each pattern") {
  const auto words = [](std::string_view text, SplitPattern pattern) {
    std::string joined;
    for (const std::string_view word : split_words(text, pattern))
      joined += (joined.empty() ? "" : "|") + std::string(word);
    return joined;
  };
  // The long s is an s to those that look for 's in any case.
  CHECK(words("'\u017Fa 'Sa", SplitPattern::llama3) == "'\u017F|a| '|Sa");
  CHECK(words("'\u017Fa", SplitPattern::gpt2) == "'|\u017Fa");
  CHECK(words("we'LL 1234567", SplitPattern::llama3) == "we|'LL| |123|456|7");
  CHECK(words("we'LL 123", SplitPattern::qwen2) == "we|'LL| |1|2|3");
  CHECK(words("we'll 123a", SplitPattern::smollm2) == "we|'ll| |1|2|3|a");
  CHECK(words("we'll 123a", SplitPattern::gpt2) == "we|'ll| 123|a");
  CHECK(words("a;\r\n\n  b \n c", SplitPattern::qwen2) == "a|;\r\n\n| | b| \n| c");
  CHECK(words("(a !b", SplitPattern::llama3) == "(a| !|b");
}

TEST_CASE("a GGUF file's tokenizer is the folder's") {
  const sparsegrad::finetune::GgufFile file((golden / "smollm2.gguf").string());
  const auto tokenizer = gguf_tokenizer(file);
  check_strings(*tokenizer, "smollm2");
  const CausalSettings& settings = tokenizer->settings();
  CHECK(settings.bos_id == 1);
  CHECK(settings.eos_id == 2);
  CHECK(settings.pad_id == 0);
  CHECK(settings.end_ids == Ids{2, 0});
  CHECK_FALSE(settings.adds_bos);
  CHECK(settings.chat_template == "{% for message in messages %}...");
  REQUIRE(tokenizer->notes().size() == 1);
  check_says(tokenizer->notes()[0], "no token for the bytes 0x04 0x06: in texts they are left out");
}

TEST_CASE("settings of a folder") {
  const auto smollm2 = load_causal_tokenizer(golden / "smollm2");
  CHECK(smollm2->settings().bos_id == 1);
  CHECK(smollm2->settings().eos_id == 2);
  CHECK(smollm2->settings().pad_id == 0);
  CHECK(smollm2->settings().end_ids == Ids{2, 0});
  CHECK(smollm2->settings().chat_template == "{{ messages }}");
  CHECK(smollm2->is_special(1));
  CHECK_FALSE(smollm2->is_special(5));
  CHECK(smollm2->id_of("<|im_end|>") == 2);
  CHECK(smollm2->bytes_of(*smollm2->id_of("Ġ")) == " ");
  const auto llama3 = load_causal_tokenizer(golden / "llama3");
  CHECK(llama3->settings().adds_bos);
  CHECK(llama3->settings().bos_id == 0);
  CHECK_FALSE(llama3->settings().adds_eos);
  CHECK_FALSE(llama3->settings().eos_id.has_value());

  const auto folder = fresh_folder("settings");
  std::filesystem::copy(golden / "gpt2", folder);
  const auto load = [&](const char* name, const char* text) {
    write_file(folder / name, text);
    return load_causal_tokenizer(folder);
  };
  CHECK(load("tokenizer_config.json", R"({"chat_template": [{"name": "x", "template": "1"},
             {"name": "default", "template": "2"}]})")
            ->settings()
            .chat_template == "2");
  CHECK(load("chat_template.jinja", "3")->settings().chat_template == "3");
  CHECK(load("special_tokens_map.json", R"({"eos_token": "<|end|>"})")->settings().eos_id == 0);
  check_says(error_of([&] { load("special_tokens_map.json", R"({"eos_token": "</s>"})"); }),
             "special_tokens_map.json: \"eos_token\" is \"</s>\", which is no token of tokenizer.json");
  const auto more = load(
      "tokenizer_config.json",
      R"({"eos_token": "<new>", "added_tokens_decoder": {"480": {"content": "<new>", "special": true}}})");
  CHECK(more->settings().eos_id == 480);
  CHECK(more->encode("<new>", SpecialText::parsed) == Ids{480});
  check_says(error_of([&] {
               load("tokenizer_config.json", R"({"added_tokens_decoder": {"7": {"content": "<|end|>"}}})");
             }),
             "the added token \"<|end|>\" has the id 7, in tokenizer.json it has 0");
  check_says(error_of([&] {
               load("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})");
             }),
             "the added token \"x\", expected an id");
  check_says(error_of([&] { load("tokenizer_config.json", "[1]"); }), "expected a JSON object, found array");
}

TEST_CASE("folders that are none of these tokenizers") {
  const auto folder = fresh_folder("none");
  check_says(error_of([&] { load_causal_tokenizer(folder); }),
             "expected tokenizer.json or tokenizer.model, found none");
  check_says(changed("gpt2", [](Json& j) { j["model"]["type"] = "Unigram"; }),
             "expected a byte-level BPE model, found Unigram");
  check_says(changed("gpt2", [](Json& j) { j["model"]["byte_fallback"] = true; }),
             "found true: a SentencePiece tokenizer");
  check_says(changed("gpt2",
                     [](Json& j) {
                       j["normalizer"] = {{"type", "NFKC"}};
                     }),
             "expected the normalizer none or NFC, found NFKC");
  check_says(changed("gpt2",
                     [](Json& j) {
                       j["decoder"] = {{"type", "Fuse"}};
                     }),
             "expected the decoder ByteLevel, found Fuse");
  check_says(changed("gpt2", [](Json& j) { j["pre_tokenizer"] = nullptr; }),
             "the pre_tokenizer is none, expected one of: ByteLevel (GPT-2)");
  check_says(changed("gpt2", [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }),
             "expected false");
  check_says(changed("gpt2", [](Json& j) { j["pre_tokenizer"]["use_regex"] = false; }),
             "without a regular expression");
  check_says(changed("smollm2",
                     [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false; }),
             "the pre_tokenizer is {");
  check_says(changed("smollm2", [](Json& j) { j["pre_tokenizer"]["pretokenizers"] = Json::array(); }),
             "a Sequence of []");
  check_says(
      changed("llama3", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\d+"; }),
      "a Split by the regular expression \"\\d+\"");
  check_says(
      changed("llama3", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }),
      "the pre_tokenizer is {");
  const auto processor = [](const Json& single) {
    return changed("llama3", [&](Json& j) { j["post_processor"]["processors"][1]["single"] = single; });
  };
  check_says(processor(Json::array()), "the post_processor is {");
  check_says(processor({{{"SpecialToken", {{"id", "<x>"}}}}}), "malformed post_processor");
  check_says(changed("llama3",
                     [](Json& j) {
                       j["post_processor"] = {{"type", "RobertaProcessing"}};
                     }),
             "the post_processor is RobertaProcessing, expected none, ByteLevel, or");
  check_says(changed("gpt2",
                     [](Json& j) {
                       j["model"]["merges"].push_back({"Q", "Z"});
                     }),
             "is not in the vocabulary");
}

TEST_CASE("bytes without a token are left out, or become the unknown token") {
  Json json = read(golden / "smollm2" / "tokenizer.json");
  const auto folder = fresh_folder("unknown");
  const auto ids = [&](bool fuse) {
    json["model"]["unk_token"] = "<|end|>";
    json["model"]["fuse_unk"] = fuse;
    write_file(folder / "tokenizer.json", json.dump());
    return load_causal_tokenizer(folder)->encode("\x04\x06", SpecialText::plain);
  };
  CHECK(load_causal_tokenizer(golden / "smollm2")->encode("\x04\x06", SpecialText::plain).empty());
  CHECK(ids(false) == Ids{0, 0});
  CHECK(ids(true) == Ids{0});
  check_says(changed("smollm2", [](Json& j) { j["model"]["unk_token"] = "<unk>"; }),
             "expected the unknown token \"<unk>\" in the vocabulary, found none");
}

TEST_CASE("ids and text that are none") {
  const auto tokenizer = load_causal_tokenizer(golden / "gpt2");
  check_says(error_of([&] { tokenizer->encode("a\xFF", SpecialText::plain); }), "byte 1 of 2 is 0xFF");
  const Ids none{100000};
  check_says(error_of([&] { tokenizer->decode(none, false); }), "found 100000");
  CHECK(tokenizer->decode(Ids{1}, false) == "<|im_start|>");
  CHECK(tokenizer->decode(Ids{1}, true).empty());
}

TEST_CASE("bytes as text, piece by piece") {
  // As Rust's from_utf8_lossy has them.
  CHECK(to_utf8("a\xF0\x9F\x98\x80z") == "a\xF0\x9F\x98\x80z");
  CHECK(to_utf8("\xF0\x9F\x98") == "\uFFFD");
  CHECK(to_utf8("\xF0\x9F\x98x") == "\uFFFDx");
  CHECK(to_utf8("\xC0\x80") == "\uFFFD\uFFFD");
  CHECK(to_utf8("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(to_utf8("\xE0\x80z\xF4\x90") == "\uFFFD\uFFFDz\uFFFD\uFFFD");
  CHECK(to_utf8("\xF5\x80\xFF") == "\uFFFD\uFFFD\uFFFD");
  Utf8Stream stream;
  CHECK(stream.push("\xE4").empty());
  CHECK(stream.push("\xBD").empty());
  CHECK(stream.push("\xA0\xE5") == "\u4F60");
  CHECK(stream.push("a") == "\uFFFDa");
  CHECK(stream.push("\xC3").empty());
  CHECK(stream.finish() == "\uFFFD");
  CHECK(stream.finish().empty());
}
