// The tokenizer of a GGUF file, written as the files of a folder, and the other way.
#include <fstream>
#include <string>
#include <vector>

#include "checkpoints/gguf_metadata.hpp"
#include "checkpoints/gguf_tokenizer.hpp"
#include "checkpoints/gguf_tokenizer_files.hpp"
#include "files.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path golden = fs::path(SPARSEGRAD_TEST_DIR) / "golden" / "causal";

/// The hard strings of the goldens, and some with the texts of special tokens.
const std::vector<std::string>& hard_texts() {
  static const std::vector<std::string> all = [] {
    std::ifstream stream(golden / "strings.json");
    REQUIRE(stream.good());
    std::vector<std::string> texts{"", " ", "2 + 2 = 1024\n\n x\t", "<s>a</s> b<s> c",
                                   "It's \xC3\x9C"
                                   "ber <|im_start|>user\n<|im_end|>"};
    const auto collect = [&](const auto& self, const nlohmann::json& value) -> void {
      if (value.is_string()) texts.push_back(value);
      if (value.is_structured())
        for (const nlohmann::json& part : value)
          self(self, part);
    };
    collect(collect, nlohmann::json::parse(stream));
    return texts;
  }();
  REQUIRE(all.size() > 20);
  return all;
}

void check_same(const CausalTokenizer& read, const CausalTokenizer& own) {
  CHECK(read.settings().bos_id == own.settings().bos_id);
  CHECK(read.settings().eos_id == own.settings().eos_id);
  CHECK(read.settings().pad_id == own.settings().pad_id);
  CHECK(read.settings().adds_bos == own.settings().adds_bos);
  CHECK(read.settings().adds_eos == own.settings().adds_eos);
  CHECK(read.settings().chat_template == own.settings().chat_template);
  for (const std::string& text : hard_texts()) {
    CAPTURE(text);
    for (const SpecialText special : {SpecialText::parsed, SpecialText::plain}) {
      const std::vector<std::int32_t> ids = own.encode(text, special);
      CHECK(read.encode(text, special) == ids);
      for (const bool skip : {false, true})
        CHECK(read.decode(ids, skip) == own.decode(ids, skip));
    }
  }
}

/// A GGUF file with a folder's tokenizer and nothing else, for a model of this many rows.
fs::path gguf_of(const fs::path& folder, index_t rows, std::vector<std::string>& notes,
                 std::span<const std::int32_t> ends = {}) {
  const fs::path file = fresh_folder("tokenizer_gguf") / "x.gguf";
  GgufWriter writer;
  notes = put_gguf_tokenizer(folder, rows, ends, writer);
  writer.write(file);
  return file;
}

}  // namespace

TEST_CASE("a folder that is written from a GGUF's tokenizer is read as the same tokenizer") {
  for (const char* name : {"smollm2.gguf", "sentencepiece.gguf"}) {
    CAPTURE(name);
    if (name == std::string("sentencepiece.gguf") && !has_sentencepiece()) continue;
    const GgufFile file((golden / name).string());
    const auto own = gguf_tokenizer(file);
    const fs::path folder = fresh_folder("from_gguf");
    write_tokenizer_files(file, folder);
    const auto read = load_causal_tokenizer(folder);
    CHECK(read->vocab_size() == own->vocab_size());
    check_same(*read, *own);
  }
}

TEST_CASE("a GGUF's tokenizer that is written from a folder is read as the same tokenizer") {
  for (const char* name : {"gpt2", "smollm2", "llama3", "qwen2", "sentencepiece"}) {
    CAPTURE(name);
    if (name == std::string("sentencepiece") && !has_sentencepiece()) continue;
    const auto own = load_causal_tokenizer(golden / name);
    const auto rows = static_cast<index_t>(own->vocab_size()) + 3;
    std::vector<std::string> notes;
    const GgufFile file(gguf_of(golden / name, rows, notes).string());
    const auto read = gguf_tokenizer(file);
    CHECK(read->vocab_size() == own->vocab_size() + 3);
    CHECK(read->token_of(static_cast<std::int32_t>(rows - 1)) == "[PAD" + std::to_string(rows - 1) + "]");
    check_same(*read, *own);
  }
}

TEST_CASE("tokens that end an answer have three places in a GGUF file") {
  std::vector<std::string> notes;
  const std::vector<std::int32_t> ends{5, 6, 7, 8};
  const auto own = load_causal_tokenizer(golden / "smollm2");
  const auto rows = static_cast<index_t>(own->vocab_size());
  const GgufFile file(gguf_of(golden / "smollm2", rows, notes, ends).string());
  const auto found = gguf_tokenizer(file)->settings().end_ids;
  CHECK(found.size() == 3);
  REQUIRE(notes.size() == own->settings().end_ids.size() + ends.size() - 3);
  check_says(notes.front(), "ends answers too, and a GGUF file names three such");
}

TEST_CASE("SentencePiece models that GGUF files cannot hold are refused") {
  const auto refused = [](const std::string& more) {
    const std::string model =
        sentencepiece_model({{"<unk>", 0, PieceType::unknown}, {"a", -1, PieceType::normal}}, true);
    return error_of([&] { (void)read_piece_model(model + more, "tokenizer.model"); });
  };
  const PieceModel whole = [] {
    static const std::string model =
        sentencepiece_model({{"<unk>", 0, PieceType::unknown}, {"a", -1.5F, PieceType::normal}}, false);
    return read_piece_model(model, "x");
  }();
  REQUIRE(whole.pieces.size() == 2);
  CHECK(whole.pieces[0].type == PieceType::unknown);
  CHECK(whole.pieces[1].text == "a");
  CHECK(whole.pieces[1].score == -1.5F);
  CHECK_FALSE(whole.add_dummy_prefix);
  check_says(refused(std::string("\x12\x02\x18\x01", 4)), "is not of byte-pair encoding");
  check_says(refused(std::string("\x1A\x03\x12\x01x", 5)), "normalises texts");
  check_says(refused(std::string("\x1A\x02\x20\x01", 4)), "removes blanks");
  check_says(refused(std::string("\x1A\x02\x28\x00", 4)), "keeps blanks as they are");
  check_says(refused(std::string("\x12\x03\xC0\x01\x01", 5)), "has blanks as suffixes");
  check_says(refused(std::string("\x0A\x02\x18\x09", 4)), "a piece has the type 9");
  for (const std::string& cut :
       {std::string("\x0A\x09\x01", 3), std::string("\x0F", 1), std::string("\xFF\xFF", 2)})
    check_says(refused(cut), "tokenizer.model: expected a SentencePiece model, found bytes that are none");
  check_says(error_of([] { (void)read_piece_model("", "tokenizer.model"); }), "has no pieces");
}
