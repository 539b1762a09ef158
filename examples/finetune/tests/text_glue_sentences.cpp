// Every sentence of GLUE's files, id by id through hashes (goldens by golden/make_tokenizer_goldens.py).
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/glue.hpp"
#include "files.hpp"
#include "tokenizers/byte_bpe.hpp"
#include "tokenizers/wordpiece.hpp"

using namespace sparsegrad::finetune;
using sparsegrad::finetune::test::read_golden;

namespace {

/// 64-bit FNV-1a over 32-bit values, the lowest byte first.
class Hash {
 public:
  void add(std::uint32_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8)
      state_ = (state_ ^ ((value >> shift) & 0xFFU)) * 0x100000001B3U;
  }
  /// An example's length, its ids, and how many of them are of the second sentence.
  void add(const Encoding& encoding) {
    add(static_cast<std::uint32_t>(encoding.ids.size()));
    for (const std::int32_t id : encoding.ids)
      add(static_cast<std::uint32_t>(id));
    add(static_cast<std::uint32_t>(std::accumulate(encoding.type_ids.begin(), encoding.type_ids.end(), 0)));
  }
  std::string text() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(state_));
    return out;
  }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325U;
};

/// The folders of data and vocabularies; nothing, and a message, where they are not set.
std::optional<std::pair<std::string, std::filesystem::path>> folders() {
  const char* glue = std::getenv("SPARSEGRAD_GLUE_DIR");
  const char* vocab = std::getenv("SPARSEGRAD_VOCAB_DIR");
  if (glue != nullptr && vocab != nullptr) return std::pair<std::string, std::filesystem::path>(glue, vocab);
  MESSAGE(
      "skipped: set SPARSEGRAD_GLUE_DIR (a folder with CoLA, SST-2, MRPC, STS-B) and SPARSEGRAD_VOCAB_DIR (a "
      "folder with bert-base-uncased/vocab.txt, roberta-base/vocab.json and roberta-base/merges.txt)");
  return std::nullopt;
}

void check_digests(const Tokenizer& tokenizer, const nlohmann::json& golden, const std::string& glue) {
  const auto block = golden.at("block").get<std::size_t>();
  int tested = 0;
  for (const auto& file : golden.at("files")) {
    const Task& task = find_task(file.at("task").get<std::string>());
    const Split split = file.at("split") == "train" ? Split::train : Split::dev;
    CAPTURE(task.name);
    CAPTURE(to_string(split));
    if (!find_task_folder(task, glue, split)) {
      MESSAGE("skipped: no " << task.name << " in SPARSEGRAD_GLUE_DIR");
      continue;
    }
    const Dataset data = load_split(task, glue, split);
    REQUIRE(data.examples.size() == file.at("examples").get<std::size_t>());
    double label_sum = 0;
    for (const Example& example : data.examples)
      label_sum += static_cast<double>(example.label);
    CHECK(label_sum == doctest::Approx(file.at("label_sum").get<double>()));

    std::string blocks;
    for (const auto& line : file.at("block_checksums"))
      blocks += line.get<std::string>();
    for (const auto& entry : file.at("digests").items()) {
      const std::string& length = entry.key();
      const nlohmann::json& digest = entry.value();
      Hash hash;
      Hash block_hash;
      std::size_t ids = 0;
      for (std::size_t i = 0; i < data.examples.size(); ++i) {
        const Example& example = data.examples[i];
        const Encoding encoding = tokenizer.encode(example.a, example.b, std::stoul(length));
        ids += encoding.ids.size();
        hash.add(encoding);
        block_hash.add(encoding);
        if (length == "512" && ((i + 1) % block == 0 || i + 1 == data.examples.size())) {
          const std::size_t number = i / block;
          CHECK_MESSAGE(
              block_hash.text().substr(12) == blocks.substr(4 * number, 4),
              "the first difference is in examples " << number * block << " to " << i << ", counted from 0");
          block_hash = Hash();
        }
      }
      CAPTURE(length);
      CHECK(ids == digest.at("ids").get<std::size_t>());
      CHECK(hash.text() == digest.at("fnv1a").get<std::string>());
    }
    ++tested;
  }
  CHECK(tested > 0);
}

}  // namespace

TEST_CASE("every sentence of GLUE's files gives the ids of transformers' BertTokenizer") {
  const auto found = folders();
  if (!found) return;
  const auto& [glue, vocab] = *found;
  check_digests(WordPieceTokenizer::from_vocab(vocab / "bert-base-uncased" / "vocab.txt"),
                read_golden("glue_digests.json"), glue);
}

TEST_CASE("every sentence of GLUE's files gives the ids of transformers' RobertaTokenizer") {
  const auto found = folders();
  if (!found) return;
  const auto& [glue, vocab] = *found;
  check_digests(ByteBpeTokenizer::from_vocab(vocab / "roberta-base" / "vocab.json",
                                             vocab / "roberta-base" / "merges.txt"),
                read_golden("roberta_glue_digests.json"), glue);
}
