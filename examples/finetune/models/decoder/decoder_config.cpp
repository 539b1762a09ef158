#include "models/decoder/decoder_config.hpp"

#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/core/number.hpp>

#include <cstdint>
#include <limits>

namespace sparsegrad::finetune {

namespace {

[[noreturn]] void fail(std::string_view source, const std::string& text) {
  throw ModelError(std::string(source) + ": " + text);
}

}  // namespace

std::string_view to_string(DecoderFamily family) {
  switch (family) {
    case DecoderFamily::mistral:
      return "mistral";
    case DecoderFamily::qwen2:
      return "qwen2";
    default:
      return "llama";
  }
}

void DecoderConfig::check(std::string_view source) const {
  constexpr index_t largest = std::numeric_limits<std::int32_t>::max();
  const auto positive = [&](const char* key, index_t value) {
    if (value < 1 || value > largest) {
      fail(source, std::string("the field \"") + key + "\" is " + std::to_string(value) +
                       ", expected a number from 1 to " + std::to_string(largest));
    }
  };
  positive("vocab_size", vocab_size);
  positive("max_position_embeddings", max_positions);
  positive("num_hidden_layers", layers);
  positive("hidden_size", hidden);
  positive("intermediate_size", intermediate);
  positive("num_attention_heads", heads);
  positive("num_key_value_heads", kv_heads);
  positive("head_dim", head_size);
  if (heads % kv_heads != 0) {
    fail(source, "\"num_attention_heads\" is " + std::to_string(heads) +
                     ", not a multiple of \"num_key_value_heads\" " + std::to_string(kv_heads));
  }
  if (head_size % 2 != 0) {
    fail(source, "\"head_dim\" is " + std::to_string(head_size) +
                     ", expected an even number, for positions rotate the columns of a head in pairs");
  }
  if (heads > largest / head_size)
    fail(source, std::to_string(heads) + " heads of " + std::to_string(head_size) + " are too many columns");
  const auto above_zero = [&](const char* key, double value) {
    if (!(value > 0) || !sparsegrad::is_finite(value))
      fail(source, std::string("the field \"") + key + "\" is " + number_text(value) + ", expected > 0");
  };
  above_zero("rms_norm_eps", rms_norm_eps);
  above_zero("rope_theta", rope.base);
  if (!(initializer_range >= 0) || !sparsegrad::is_finite(initializer_range)) {
    fail(source, "the field \"initializer_range\" is " + number_text(initializer_range) + ", expected >= 0");
  }
  if (rope.scaling == RopeScaling::none) return;
  if (!(rope.factor >= 1) || !sparsegrad::is_finite(rope.factor)) {
    fail(source, "the \"factor\" of \"rope_scaling\" is " + number_text(rope.factor) + ", expected >= 1");
  }
  if (rope.scaling != RopeScaling::llama3) return;
  above_zero("low_freq_factor", rope.low_frequency_factor);
  if (!(rope.high_frequency_factor > rope.low_frequency_factor) ||
      !sparsegrad::is_finite(rope.high_frequency_factor)) {
    fail(source, "\"high_freq_factor\" is " + number_text(rope.high_frequency_factor) +
                     ", expected more than \"low_freq_factor\" " + number_text(rope.low_frequency_factor));
  }
  positive("original_max_position_embeddings", rope.original_max_positions);
}

}  // namespace sparsegrad::finetune
