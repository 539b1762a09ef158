// libFuzzer target: any bytes are a decoder's config.json or are refused by a ModelError; what is written for a
// configuration reads as that configuration.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "checkpoints/config_file.hpp"
#include "checkpoints/decoder_config_file.hpp"
#include "refusals.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

namespace {

bool same(const RopeConfig& a, const RopeConfig& b) {
  const bool same_kind = a.base == b.base && a.scaling == b.scaling;
  if (!same_kind || a.scaling == RopeScaling::none) return same_kind;
  if (a.factor != b.factor || a.scaling == RopeScaling::linear) return a.factor == b.factor;
  return a.low_frequency_factor == b.low_frequency_factor &&
         a.high_frequency_factor == b.high_frequency_factor &&
         a.original_max_positions == b.original_max_positions;
}

bool same(const DecoderConfig& a, const DecoderConfig& b) {
  return a.family == b.family && a.vocab_size == b.vocab_size && a.max_positions == b.max_positions &&
         a.layers == b.layers && a.hidden == b.hidden && a.intermediate == b.intermediate &&
         a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_size == b.head_size &&
         a.rms_norm_eps == b.rms_norm_eps && a.initializer_range == b.initializer_range &&
         a.tied_embeddings == b.tied_embeddings && a.qkv_bias == b.qkv_bias && a.o_bias == b.o_bias &&
         same(a.rope, b.rope) && a.bos_token_id == b.bos_token_id && a.eos_token_ids == b.eos_token_ids &&
         a.pad_token_id == b.pad_token_id;
}

void check_numbers(const nlohmann::json& json, const DecoderConfig& config) {
  const auto equal = [&](const char* key, std::int64_t taken) { test::check_number(json, key, taken); };
  equal("vocab_size", config.vocab_size);
  equal("max_position_embeddings", config.max_positions);
  equal("num_hidden_layers", config.layers);
  equal("hidden_size", config.hidden);
  equal("intermediate_size", config.intermediate);
  equal("num_attention_heads", config.heads);
  equal("num_key_value_heads", config.kv_heads);
  equal("head_dim", config.head_size);
  // Both halves of the rotation, and every group of heads, are whole.
  fuzz::require(config.head_size % 2 == 0 && config.heads % config.kv_heads == 0, "heads that do not divide");
  for (const float f : rope_frequencies(config.rope, std::min<sparsegrad::index_t>(config.head_size, 4096)))
    fuzz::require(f >= 0, "a frequency is " + std::to_string(f));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  file.set(fuzz::text_of(data, size));
  const fuzz::MemoryBound bound(size);
  try {
    const nlohmann::json json = read_json(file.path());
    const DecoderConfig config = parse_decoder_config(json, "input");
    check_numbers(json, config);
    try {
      const std::string written = to_json(config, json).dump();
      const DecoderConfig again = parse_decoder_config(nlohmann::json::parse(written), "written");
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
