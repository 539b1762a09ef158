#include "checkpoints/decoder_config_file.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "checkpoints/json_fields.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;
using namespace fields;

DecoderFamily family_of(const json& j, std::string_view source) {
  const json* type = find(j, "model_type");
  if (type == nullptr) fail(source, "the field \"model_type\" is missing");
  for (const DecoderFamily family : {DecoderFamily::llama, DecoderFamily::mistral, DecoderFamily::qwen2})
    if (*type == to_string(family)) return family;
  fail(source, "the field \"model_type\" is " + type->dump() +
                   ", the engine knows \"llama\", \"mistral\" and \"qwen2\" (SmolLM2 and TinyLlama are "
                   "\"llama\")");
}

/// Fields that change what the tensors mean, or what the layers compute, in ways that the engine does not have.
void require_plain_decoder(const json& j, std::string_view source) {
  constexpr std::pair<const char*, const char*> foreign[] = {
      {"is_encoder_decoder", "the engine has decoders without an encoder alone"},
      {"add_cross_attention", "the engine has decoders without an encoder alone"},
      {"pruned_heads", "the engine has blocks of equal width alone: use the model as it was before pruning"},
      {"per_layer_config", "the engine has equal blocks alone"},
      {"mlp_bias", "the engine has no biases in the MLP"},
      {"quantization_config",
       "the engine reads floating-point tensors: save the model dequantized (transformers: "
       "model.dequantize().save_pretrained(FOLDER)), or give its GGUF file"},
      {"compression_config", "the engine reads floating-point tensors: save the model decompressed"},
  };
  for (const auto& [key, cure] : foreign)
    refuse_field(j, key, cure, source);
  refuse_own_code(j, "a plain LLaMA, Mistral or Qwen2", source);
  if (text_or(j, "hidden_act", "silu", source) != "swish")  // another name of the same function
    require_text(j, "hidden_act", "silu", source);
}

/// Attention that does not see all earlier tokens of a sequence.
void refuse_window(const json& j, const DecoderConfig& c, std::string_view source) {
  const char* unused = "\"sliding_window\": null";
  index_t window = 0;
  if (c.family == DecoderFamily::mistral) {
    // transformers' value where the file says nothing.
    window = j.contains("sliding_window") ? integer_or(j, "sliding_window", 0, source) : 4096;
  } else if (c.family == DecoderFamily::qwen2 && flag_or(j, "use_sliding_window", false, source)) {
    window = integer_or(j, "sliding_window", 4096, source);
    unused = "\"use_sliding_window\": false";
  }
  if (window == 0 || window >= c.max_positions) return;
  fail(source, "\"sliding_window\" is " + std::to_string(window) + " tokens of \"max_position_embeddings\" " +
                   std::to_string(c.max_positions) +
                   "; the engine's attention has no window. For sequences of up to " +
                   std::to_string(window) +
                   " tokens it makes no difference: set \"max_position_embeddings\" to " +
                   std::to_string(window) + " and " + unused);
}

double required_number(const json& j, const char* key, std::string_view source) {
  if (find(j, key) == nullptr)
    fail(source, std::string("the field \"") + key + "\" of the positions' scaling is missing");
  return number_or(j, key, 0, source);
}

RopeConfig rope_of(const json& j, std::string_view source) {
  RopeConfig rope;
  rope.base = number_or(j, "rope_theta", rope.base, source);
  // transformers 5 has all in "rope_parameters", versions before the scaling alone in "rope_scaling".
  const json* fields = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* found = find(j, key);
    if (found == nullptr) continue;
    if (!found->is_object())
      fail(source, std::string("the field \"") + key + "\" is " + found->dump() + ", expected an object");
    if (fields == nullptr) fields = found;
  }
  for (const json* object : {&j, fields}) {
    if (object == nullptr) continue;
    if (const double share = number_or(*object, "partial_rotary_factor", 1, source); share != 1.0) {
      fail(source, "the field \"partial_rotary_factor\" is " +
                       find(*object, "partial_rotary_factor")->dump() +
                       "; the engine rotates all columns of a head");
    }
  }
  if (fields == nullptr) return rope;
  rope.base = number_or(*fields, "rope_theta", rope.base, source);
  const std::string old = text_or(*fields, "type", "default", source);
  const std::string type = text_or(*fields, "rope_type", old.c_str(), source);
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") {
    fail(source, "the positions' \"rope_type\" is \"" + type +
                     "\", the engine knows \"default\", \"linear\" and \"llama3\"");
  }
  rope.factor = required_number(*fields, "factor", source);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
    return rope;
  }
  rope.scaling = RopeScaling::llama3;
  rope.low_frequency_factor = required_number(*fields, "low_freq_factor", source);
  rope.high_frequency_factor = required_number(*fields, "high_freq_factor", source);
  const char* original = "original_max_position_embeddings";
  rope.original_max_positions = integer(find(*fields, original) != nullptr ? *fields : j, original, source);
  return rope;
}

/// A token's number; -1 where it is not said, or negative, which stands for none.
std::int32_t token(const json& object, const char* key, std::string_view source) {
  return static_cast<std::int32_t>(std::max<index_t>(integer_or(object, key, -1, source), -1));
}

void read_special_tokens(const json& j, DecoderConfig& c, std::string_view source) {
  c.bos_token_id = token(j, "bos_token_id", source);
  c.pad_token_id = token(j, "pad_token_id", source);
  const json* ends = find(j, "eos_token_id");
  if (ends == nullptr) return;
  for (const json& end : ends->is_array() ? *ends : json::array({*ends}))
    if (const auto id = token({{"eos_token_id", end}}, "eos_token_id", source); id >= 0)
      c.eos_token_ids.push_back(id);
}

const char* architecture(DecoderFamily family) {
  switch (family) {
    case DecoderFamily::mistral:
      return "MistralForCausalLM";
    case DecoderFamily::qwen2:
      return "Qwen2ForCausalLM";
    default:
      return "LlamaForCausalLM";
  }
}

}  // namespace

DecoderConfig parse_decoder_config(const json& j, std::string_view source) {
  if (!j.is_object()) fail(source, "expected a JSON object");
  DecoderConfig c;
  c.family = family_of(j, source);
  require_plain_decoder(j, source);
  c.vocab_size = integer(j, "vocab_size", source);
  c.max_positions = integer(j, "max_position_embeddings", source);
  c.layers = integer(j, "num_hidden_layers", source);
  c.hidden = integer(j, "hidden_size", source);
  c.intermediate = integer(j, "intermediate_size", source);
  c.heads = integer(j, "num_attention_heads", source);
  c.kv_heads = integer_or(j, "num_key_value_heads", c.heads, source);
  if (find(j, "head_dim") != nullptr) {
    c.head_size = integer(j, "head_dim", source);
  } else if (c.heads > 0 && c.hidden % c.heads == 0) {
    c.head_size = c.hidden / c.heads;
  } else {
    fail(source, "\"hidden_size\" is " + std::to_string(c.hidden) +
                     ", not a multiple of \"num_attention_heads\" " + std::to_string(c.heads) +
                     ", and there is no \"head_dim\"");
  }
  c.rms_norm_eps = number_or(j, "rms_norm_eps", c.rms_norm_eps, source);
  c.initializer_range = number_or(j, "initializer_range", c.initializer_range, source);
  c.tied_embeddings = flag_or(j, "tie_word_embeddings", false, source);
  if (c.family == DecoderFamily::qwen2) c.qkv_bias = true;
  if (c.family == DecoderFamily::llama) c.qkv_bias = c.o_bias = flag_or(j, "attention_bias", false, source);
  c.rope = rope_of(j, source);
  read_special_tokens(j, c, source);
  refuse_window(j, c, source);
  c.check(source);
  return c;
}

json to_json(const DecoderConfig& c, const json& original, io::DType dtype) {
  json j = inherited(original);
  j["architectures"] = {architecture(c.family)};
  j["model_type"] = to_string(c.family);
  j["hidden_act"] = "silu";
  j["vocab_size"] = c.vocab_size;
  j["max_position_embeddings"] = c.max_positions;
  j["num_hidden_layers"] = c.layers;
  j["hidden_size"] = c.hidden;
  j["intermediate_size"] = c.intermediate;
  j["num_attention_heads"] = c.heads;
  j["num_key_value_heads"] = c.kv_heads;
  j["head_dim"] = c.head_size;
  j["rms_norm_eps"] = c.rms_norm_eps;
  j["initializer_range"] = c.initializer_range;
  j["tie_word_embeddings"] = c.tied_embeddings;
  if (c.family == DecoderFamily::llama) j["attention_bias"] = c.qkv_bias;
  if (c.family == DecoderFamily::mistral) j["sliding_window"] = nullptr;
  if (c.family == DecoderFamily::qwen2) j["use_sliding_window"] = false;
  // Versions 4 and 5 of transformers read these; version 4 does not read "rope_parameters".
  j.erase("rope_parameters");
  j["rope_theta"] = c.rope.base;
  j["rope_scaling"] = nullptr;
  if (c.rope.scaling != RopeScaling::none)
    j["rope_scaling"] = {{"rope_type", to_string(c.rope.scaling)}, {"factor", c.rope.factor}};
  if (c.rope.scaling == RopeScaling::llama3) {
    j["rope_scaling"]["low_freq_factor"] = c.rope.low_frequency_factor;
    j["rope_scaling"]["high_freq_factor"] = c.rope.high_frequency_factor;
    j["rope_scaling"]["original_max_position_embeddings"] = c.rope.original_max_positions;
  }
  const auto put_token = [&](const char* key, std::int32_t id) {
    j[key] = id < 0 ? json(nullptr) : json(id);
  };
  put_token("bos_token_id", c.bos_token_id);
  put_token("pad_token_id", c.pad_token_id);
  if (c.eos_token_ids.size() == 1) {
    j["eos_token_id"] = c.eos_token_ids[0];
  } else {
    j["eos_token_id"] = c.eos_token_ids.empty() ? json(nullptr) : json(c.eos_token_ids);
  }
  if (j.contains("dtype")) j["dtype"] = dtype_name(dtype);
  j["torch_dtype"] = dtype_name(dtype);  // which versions before "dtype" read
  return j;
}

}  // namespace sparsegrad::finetune
