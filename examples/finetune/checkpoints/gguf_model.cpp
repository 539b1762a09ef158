#include "checkpoints/gguf_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include <sparsegrad/core/float_bits.hpp>

#include "models/layers/rope.hpp"

namespace sparsegrad::finetune {
namespace {

constexpr const char* rope_factors = "rope_freqs.weight";

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> whole_names{
    {{"model.embed_tokens.weight", "token_embd.weight"},
     {"model.norm.weight", "output_norm.weight"},
     {"lm_head.weight", "output.weight"}}};
// Of a block, without ".weight" and ".bias".
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> block_names{
    {{"input_layernorm", "attn_norm"},
     {"post_attention_layernorm", "ffn_norm"},
     {"self_attn.q_proj", "attn_q"},
     {"self_attn.k_proj", "attn_k"},
     {"self_attn.v_proj", "attn_v"},
     {"self_attn.o_proj", "attn_output"},
     {"mlp.gate_proj", "ffn_gate"},
     {"mlp.up_proj", "ffn_up"},
     {"mlp.down_proj", "ffn_down"}}};

/// Keys of an architecture.
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string name(const char* key) const { return prefix_ + key; }
  index_t integer(const char* key) const { return file_.at<std::int64_t>(name(key)); }
  std::optional<index_t> integer_if(const char* key) const { return file_.get<std::int64_t>(name(key)); }
  std::optional<double> number_if(const char* key) const { return file_.get<double>(name(key)); }
  std::optional<std::string_view> text_if(const char* key) const {
    return file_.get<std::string_view>(name(key));
  }
  ModelError refuse(const char* key, const std::string& what) const {
    return ModelError(file_.path() + ": metadata '" + name(key) + "' is " + file_.text_of(name(key)) + ", " +
                      what);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

void require_model(const GgufFile& file, std::string_view architecture) {
  if (architecture != "llama" && architecture != "qwen2") {
    throw ModelError(file.path() + ": the architecture is \"" + std::string(architecture) +
                     "\", expected \"llama\" or \"qwen2\"");
  }
  if (const auto type = file.get<std::string_view>("general.type"); type && *type != "model") {
    throw ModelError(file.path() + ": is of the type \"" + std::string(*type) + "\", expected \"model\"");
  }
  if (const auto parts = file.get<std::int64_t>("split.count"); parts && *parts > 1) {
    throw ModelError(
        file.path() + ": is one of " + std::to_string(*parts) +
        " files of a model, expected all in one; join them with: llama-gguf-split --merge FIRST ALL");
  }
}

/// By what a scaling divides the frequencies of positions.
std::vector<double> factors_of(const RopeConfig& rope, index_t head_size) {
  const std::vector<float> scaled = rope_frequencies(rope, head_size);
  RopeConfig plain = rope;
  plain.scaling = RopeScaling::none;
  const std::vector<float> unscaled = rope_frequencies(plain, head_size);
  std::vector<double> factors;
  for (std::size_t i = 0; i < scaled.size(); ++i)
    factors.push_back(static_cast<double>(unscaled[i]) / static_cast<double>(scaled[i]));
  return factors;
}

/// The scaling whose factors the file holds. They are all that it says of it.
void recognise_factors(const GgufFile& file, const DecoderConfig& config, RopeConfig& rope) {
  const GgufTensor& tensor = file.tensor(rope_factors, std::vector<index_t>{config.head_size / 2});
  std::vector<float> found(static_cast<std::size_t>(config.head_size / 2));
  file.dequantize(tensor, 0, 1, found);
  const auto equal = [&](const std::vector<double>& factors) {
    return std::equal(found.begin(), found.end(), factors.begin(), [](float a, double b) {
      return is_finite(a) && std::abs(static_cast<double>(a) - b) <= 1e-4 * b;
    });
  };
  if (equal(std::vector<double>(found.size(), 1))) return;
  rope.scaling = RopeScaling::llama3;
  rope.low_frequency_factor = 1;
  rope.high_frequency_factor = 4;
  rope.original_max_positions = 8192;
  // The lowest frequency has the whole factor, or in the passage 1 / f = (1 - smooth) / factor + smooth.
  const double f = static_cast<double>(found.back());
  const double lowest = std::pow(rope.base, 2.0 / static_cast<double>(config.head_size) - 1);
  const double turns = static_cast<double>(rope.original_max_positions) * lowest / (2 * std::numbers::pi);
  const double smooth = std::clamp(
      (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor), 0.0,
      1.0);
  rope.factor = (1 - smooth) / (1 / f - smooth);
  if (is_finite(rope.factor) && rope.factor >= 1 && equal(factors_of(rope, config.head_size))) return;
  throw ModelError(file.path() + ": the factors of \"" + std::string(rope_factors) +
                   "\" are none of LLaMA-3's (low_freq_factor 1, high_freq_factor 4, "
                   "original_max_position_embeddings 8192)");
}

void read_rope(const GgufFile& file, const Keys& keys, DecoderConfig& config) {
  RopeConfig& rope = config.rope;
  rope.base = keys.number_if("rope.freq_base").value_or(10000);
  const std::string type(keys.text_if("rope.scaling.type").value_or("none"));
  const auto older = keys.number_if("rope.scale_linear");
  if (type == "linear" || (older && *older != 1)) {
    rope.scaling = RopeScaling::linear;
    rope.factor = type == "linear" ? file.at<double>(keys.name("rope.scaling.factor")) : *older;
  } else if (type != "none") {
    throw keys.refuse("rope.scaling.type", "expected 'none' or 'linear'");
  }
  if (!file.contains(rope_factors)) return;
  if (rope.scaling != RopeScaling::none) {
    throw ModelError(file.path() + ": \"" + std::string(rope_factors) +
                     "\" and a linear scaling of positions, expected one of the two");
  }
  recognise_factors(file, config, rope);
}

void read_token_ids(const GgufFile& file, DecoderConfig& config) {
  const auto id = [&](const char* name) {
    const auto found = file.get<std::int64_t>(std::string("tokenizer.ggml.") + name);
    return found && *found >= 0 && *found < config.vocab_size ? static_cast<std::int32_t>(*found) : -1;
  };
  config.bos_token_id = id("bos_token_id");
  config.pad_token_id = id("padding_token_id");
  for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const std::int32_t end = id(name);
    auto& ends = config.eos_token_ids;
    if (end >= 0 && std::find(ends.begin(), ends.end(), end) == ends.end()) ends.push_back(end);
  }
}

/// `first`: the number of the first of these values in the tensor.
void require_finite(const GgufFile& file, const std::string& tensor, std::span<const float> values,
                    index_t first) {
  const auto wrong = std::find_if(values.begin(), values.end(), [](const float& x) { return !is_finite(x); });
  if (wrong == values.end()) return;
  throw ModelError(file.path() + ": tensor '" + tensor + "' has " + (is_nan(*wrong) ? "NaN" : "Inf") +
                   " at element " + std::to_string(first + (wrong - values.begin())) +
                   ", expected finite numbers");
}

}  // namespace

DecoderConfig gguf_config(const GgufFile& file) {
  const std::string architecture(file.at<std::string_view>("general.architecture"));
  require_model(file, architecture);
  const Keys keys(file, architecture);
  if (const auto experts = keys.integer_if("expert_count"); experts && *experts > 0)
    throw keys.refuse("expert_count", "expected a model without experts");

  DecoderConfig config;
  config.family = architecture == "qwen2" ? DecoderFamily::qwen2 : DecoderFamily::llama;
  config.max_positions = keys.integer("context_length");
  config.layers = keys.integer("block_count");
  config.hidden = keys.integer("embedding_length");
  config.intermediate = keys.integer("feed_forward_length");
  config.heads = keys.integer("attention.head_count");
  config.kv_heads = keys.integer_if("attention.head_count_kv").value_or(config.heads);
  config.rms_norm_eps = file.at<double>(keys.name("attention.layer_norm_rms_epsilon"));
  if (const auto window = keys.integer_if("attention.sliding_window"); window && *window > 0)
    throw keys.refuse("attention.sliding_window", "expected attention without a window");

  const auto turned = keys.integer_if("rope.dimension_count");
  config.head_size = keys.integer_if("attention.key_length")
                         .value_or(turned.value_or(config.heads > 0 ? config.hidden / config.heads : 0));
  if (turned && *turned != config.head_size)
    throw keys.refuse("rope.dimension_count",
                      "expected all " + std::to_string(config.head_size) + " columns of a head");
  if (const auto value = keys.integer_if("attention.value_length"); value && *value != config.head_size)
    throw keys.refuse("attention.value_length",
                      "expected " + std::to_string(config.head_size) + ", as for keys");

  const GgufTensor& table = file.tensor("token_embd.weight");
  config.vocab_size = table.rows();
  config.tied_embeddings = !file.contains("output.weight");
  config.qkv_bias = config.family == DecoderFamily::qwen2 || file.contains("blk.0.attn_q.bias");
  config.o_bias = file.contains("blk.0.attn_output.bias");
  read_token_ids(file, config);
  config.check(file.path());
  read_rope(file, keys, config);
  config.check(file.path());
  return config;
}

std::string_view gguf_architecture(const DecoderConfig& config) {
  return config.family == DecoderFamily::qwen2 ? "qwen2" : "llama";
}

std::vector<float> gguf_rope_factors(const DecoderConfig& config) {
  if (config.rope.scaling != RopeScaling::llama3) return {};
  const std::vector<double> factors = factors_of(config.rope, config.head_size);
  return {factors.begin(), factors.end()};
}

std::string gguf_name(std::string_view parameter) {
  for (const auto& [ours, theirs] : whole_names)
    if (ours == parameter) return std::string(theirs);
  constexpr std::string_view blocks = "model.layers.";
  if (parameter.starts_with(blocks)) {
    const std::string_view rest = parameter.substr(blocks.size());
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::size_t kind = rest.rfind('.');
    for (const auto& [ours, theirs] : block_names) {
      if (kind != std::string_view::npos && kind > dot && rest.substr(dot + 1, kind - dot - 1) == ours)
        return "blk." + std::string(rest.substr(0, dot)) + "." + std::string(theirs) +
               std::string(rest.substr(kind));
    }
  }
  throw ModelError("a decoder of a GGUF file has no parameter \"" + std::string(parameter) + "\"");
}

bool has_interleaved_rows(const DecoderConfig& config, std::string_view parameter) {
  return config.family != DecoderFamily::qwen2 && (parameter.find(".q_proj.") != std::string_view::npos ||
                                                   parameter.find(".k_proj.") != std::string_view::npos);
}

void require_finite(const GgufFile& file, std::string_view parameter, const PackedMatrix& packed) {
  packed.require_whole();
  const std::string name = gguf_name(parameter);
  const GgufTensor& tensor = file.tensor(name);
  std::vector<float> row(static_cast<std::size_t>(tensor.cols()));
  for (index_t i = 0; i < tensor.rows(); ++i) {
    file.dequantize(tensor, i, i + 1, row);
    require_finite(file, name, row, i * tensor.cols());
  }
}

std::vector<float> gguf_parameter(const GgufFile& file, const DecoderConfig& config,
                                  std::string_view parameter, index_t rows, index_t cols) {
  const std::string name = gguf_name(parameter);
  const std::vector<index_t> shape = rows > 0 ? std::vector<index_t>{rows, cols} : std::vector<index_t>{cols};
  const GgufTensor& tensor = file.tensor(name, shape);
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  file.dequantize(tensor, 0, tensor.rows(), values);
  require_finite(file, name, values, 0);
  return hugging_face_row_order(config, parameter, values, rows > 0 ? cols : 1);
}

std::vector<float> hugging_face_row_order(const DecoderConfig& config, std::string_view parameter,
                                          std::span<const float> stored, index_t cols) {
  std::vector<float> values(stored.begin(), stored.end());
  if (!has_interleaved_rows(config, parameter)) return values;
  for (index_t row = 0; row * cols < static_cast<index_t>(stored.size()); ++row)
    std::copy_n(stored.begin() + stored_row(row, config.head_size) * cols, cols, values.begin() + row * cols);
  return values;
}

std::vector<float> gguf_row_order(const DecoderConfig& config, std::string_view parameter,
                                  std::span<const float> values, index_t cols) {
  std::vector<float> stored(values.begin(), values.end());
  if (!has_interleaved_rows(config, parameter)) return stored;
  for (index_t row = 0; row * cols < static_cast<index_t>(values.size()); ++row) {
    std::copy_n(values.begin() + row * cols, cols, stored.begin() + stored_row(row, config.head_size) * cols);
  }
  return stored;
}

DecoderLoadReport unused_gguf_tensors(const GgufFile& file, const std::set<std::string, std::less<>>& used) {
  DecoderLoadReport report;
  for (const GgufTensor& tensor : file.tensors()) {
    if (used.contains(tensor.name) || tensor.name == rope_factors) continue;
    if (tensor.name.starts_with("blk.")) {
      throw ModelError(
          file.path() + ": tensor '" + tensor.name +
          "' has no place in a block of this architecture; the model would be another one without it");
    }
    report.unused.push_back(tensor.name);
  }
  return report;
}

}  // namespace sparsegrad::finetune
