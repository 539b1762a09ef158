// The tokenizer of a GGUF file, written as the files of a folder.
#include <fstream>
#include <string>
#include <vector>

#include "checkpoints/gguf_tokenizer.hpp"
#include "checkpoints/gguf_tokenizer_files.hpp"
#include "files.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path golden = fs::path(SPARSEGRAD_TEST_DIR) / "golden" / "causal";

}  // namespace

TEST_CASE("a folder that is written from a GGUF's tokenizer is read as the same tokenizer") {
  const GgufFile file((golden / "smollm2.gguf").string());
  const auto own = gguf_tokenizer(file);
  const fs::path folder = fresh_folder("from_gguf");
  write_tokenizer_files(file, folder);
  const auto read = load_causal_tokenizer(folder);
  CHECK(read->vocab_size() == own->vocab_size());
  CHECK(read->settings().bos_id == own->settings().bos_id);
  CHECK(read->settings().eos_id == own->settings().eos_id);
  CHECK(read->settings().adds_bos == own->settings().adds_bos);
  CHECK(read->settings().chat_template == own->settings().chat_template);
  std::ifstream stream(golden / "strings.json");
  REQUIRE(stream.good());
  std::vector<std::string> texts{"", " ", "2 + 2 = 1024\n\n x\t",
                                 "It's \xC3\x9C"
                                 "ber <|im_start|>user\n<|im_end|>"};
  const nlohmann::json strings = nlohmann::json::parse(stream);
  const auto collect = [&](const auto& self, const nlohmann::json& value) -> void {
    if (value.is_string()) texts.push_back(value);
    if (value.is_structured())
      for (const nlohmann::json& part : value)
        self(self, part);
  };
  collect(collect, strings);
  REQUIRE(texts.size() > 20);
  for (const std::string& text : texts) {
    for (const SpecialText special : {SpecialText::parsed, SpecialText::plain})
      CHECK(read->encode(text, special) == own->encode(text, special));
  }
}
