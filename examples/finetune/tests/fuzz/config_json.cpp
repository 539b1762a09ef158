// libFuzzer target: any bytes are a config.json or are refused by a ModelError; what is written for a configuration reads
// as that configuration.
#include <cstddef>
#include <cstdint>
#include <string>

#include "checkpoints/config_file.hpp"
#include "refusals.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

namespace {

bool same(const ModelConfig& a, const ModelConfig& b) {
  return a.family == b.family && a.vocab_size == b.vocab_size && a.max_positions == b.max_positions &&
         a.type_vocab_size == b.type_vocab_size && a.layers == b.layers && a.hidden == b.hidden &&
         a.heads == b.heads && a.intermediate == b.intermediate && a.layer_norm_eps == b.layer_norm_eps &&
         a.hidden_dropout == b.hidden_dropout && a.attention_dropout == b.attention_dropout &&
         a.classifier_dropout == b.classifier_dropout && a.initializer_range == b.initializer_range &&
         a.pad_token_id == b.pad_token_id && a.num_labels == b.num_labels && a.problem == b.problem &&
         (a.label_names.empty() || a.label_names == b.label_names);
}

void check_numbers(const nlohmann::json& json, const ModelConfig& config) {
  const auto equal = [&](const char* key, std::int64_t taken) { test::check_number(json, key, taken); };
  equal("vocab_size", config.vocab_size);
  equal("max_position_embeddings", config.max_positions);
  equal("type_vocab_size", config.type_vocab_size);
  equal("num_hidden_layers", config.layers);
  equal("hidden_size", config.hidden);
  equal("num_attention_heads", config.heads);
  equal("intermediate_size", config.intermediate);
  equal("pad_token_id", config.pad_token_id);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  file.set(fuzz::text_of(data, size));
  const fuzz::MemoryBound bound(size);
  try {
    const nlohmann::json json = read_json(file.path());
    const ModelConfig config = parse_model_config(json, "input");
    check_numbers(json, config);
    if (config.num_labels > 1000) return 0;  // labels without names: what is written grows with their number
    try {
      const std::string written = to_json(config, json).dump();
      const ModelConfig again = parse_model_config(nlohmann::json::parse(written), "written");
      fuzz::require(same(config, again), "what is written reads otherwise: " + written);
    } catch (const ModelError& error) {
      fuzz::require(false, std::string("what is written is refused: ") + error.what());
    }
  } catch (const ModelError& error) {  // refused: as it should be
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
