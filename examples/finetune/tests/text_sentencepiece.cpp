// SentencePiece models: ids and texts equal to those of the package `sentencepiece` (golden/causal), from tokenizer.model and
// GGUF; refused with what to install where the program was built without the library.
#include "tokenizers/sentencepiece.hpp"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "checkpoints/gguf_tokenizer.hpp"
#include "files.hpp"
#include "gguf_bytes.hpp"

using namespace sparsegrad::finetune;
using test::check_says;
using test::error_of;
using test::fresh_folder;
using test::write_file;
using Ids = std::vector<std::int32_t>;

namespace {
const std::filesystem::path golden = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "causal";
}  // namespace

TEST_CASE("a program without the library says what to install") {
  if (has_sentencepiece()) return;
  check_says(error_of([&] { load_causal_tokenizer(golden / "sentencepiece"); }),
             "install libsentencepiece-dev");
  const GgufFile file((golden / "sentencepiece.gguf").string());
  check_says(error_of([&] { gguf_tokenizer(file); }), "install libsentencepiece-dev");
}

TEST_CASE("hard strings have the ids and texts of the package sentencepiece") {
  if (!has_sentencepiece()) return;
  std::ifstream stream(golden / "sentencepiece.json");
  const auto expected = nlohmann::json::parse(stream);
  const GgufFile file((golden / "sentencepiece.gguf").string());
  const std::unique_ptr<CausalTokenizer> both[] = {load_causal_tokenizer(golden / "sentencepiece"),
                                                   gguf_tokenizer(file)};
  for (const auto& tokenizer : both) {
    for (std::size_t i = 0; i < expected.at("strings").size(); ++i) {
      const auto text = expected.at("strings")[i].get<std::string>();
      CAPTURE(text);
      const Ids ids = tokenizer->encode(text, SpecialText::plain);
      CHECK(ids == expected.at("ids")[i].get<Ids>());
      CHECK(to_utf8(tokenizer->decode(ids, true)) == expected.at("decoded")[i].get<std::string>());
      StreamingDecoder decoder(*tokenizer, true);
      std::string streamed;
      for (const std::int32_t id : ids)
        streamed += decoder.push(id);
      CHECK(streamed + decoder.finish() == expected.at("decoded")[i].get<std::string>());
    }
    CHECK(tokenizer->settings().adds_bos);
    CHECK(tokenizer->settings().bos_id == 1);
    CHECK(tokenizer->settings().end_ids == Ids{2});
    CHECK(tokenizer->is_special(0));
    CHECK(tokenizer->is_special(2));
    CHECK_FALSE(tokenizer->is_special(3));
    CHECK(tokenizer->bytes_of(3 + 0x41) == "A");
    check_says(error_of([&] { tokenizer->encode("\xFF", SpecialText::plain); }), "byte 0 of 1 is 0xFF");
  }
}

TEST_CASE("special tokens within a text, and those beside the model") {
  if (!has_sentencepiece()) return;
  const auto tokenizer = load_causal_tokenizer(golden / "sentencepiece");
  CHECK(tokenizer->vocab_size() == 341);
  CHECK(tokenizer->settings().pad_id == 340);
  CHECK(tokenizer->settings().chat_template == "{{ messages }}");
  const auto ids = [&](const char* text) { return tokenizer->encode(text, SpecialText::parsed); };
  const Ids hello = ids("hello");
  const Ids of_many = ids("<s>hello</s><pad>");
  REQUIRE(of_many.size() > 3);
  CHECK(of_many.front() == 1);
  CHECK(of_many[of_many.size() - 2] == 2);
  CHECK(of_many.back() == 340);
  CHECK(Ids(of_many.begin() + 1, of_many.end() - 2) != hello);  // no space before it
  const Ids with_space = ids("<s> hello");
  CHECK(Ids(with_space.begin() + 1, with_space.end()) == hello);
  CHECK(to_utf8(tokenizer->decode(of_many, true)) == "hello");
  CHECK(to_utf8(tokenizer->decode(of_many, false)) == "<s>hello</s><pad>");
}

TEST_CASE("malformed models are refused") {
  if (!has_sentencepiece()) return;
  const auto folder = fresh_folder("piece");
  write_file(folder / "tokenizer.model", "no model");
  check_says(error_of([&] { load_causal_tokenizer(folder); }),
             "tokenizer.model: expected a SentencePiece model, found: ");
  std::filesystem::copy(golden / "sentencepiece" / "tokenizer.model", folder / "tokenizer.model",
                        std::filesystem::copy_options::overwrite_existing);
  write_file(folder / "tokenizer_config.json", R"({"eos_token": "<|x|>"})");
  check_says(error_of([&] { load_causal_tokenizer(folder); }),
             "\"eos_token\" is \"<|x|>\", which is no token of tokenizer.model");

  test::GgufModel model;
  model.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"<unk>", "a", "a"});
  check_says(error_of([&] { gguf_tokenizer(model.file()); }), "'tokenizer.ggml.scores' is missing");
  const auto scores = [](int count) {
    test::GgufBytes bytes;
    bytes.u32(9).u32(6).u64(static_cast<std::uint64_t>(count));
    for (int i = 0; i < count; ++i)
      bytes.number(0.0F);
    return bytes;
  };
  model.entry("tokenizer.ggml.scores", scores(2)).numbers("tokenizer.ggml.token_type", {2, 1, 1});
  check_says(error_of([&] { gguf_tokenizer(model.file()); }),
             "have 2 and 3 elements, expected one for each of the 3 tokens");
  model.entry("tokenizer.ggml.scores", scores(3));
  check_says(error_of([&] { gguf_tokenizer(model.file()); }),
             "x.gguf: expected a SentencePiece model, found: ");
  model.numbers("tokenizer.ggml.token_type", {2, 1, 7});
  check_says(error_of([&] { gguf_tokenizer(model.file()); }),
             "has 7 at element 2, expected a number from 1 to 6");
}
