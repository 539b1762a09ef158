#include "checkpoints/adapter_reader.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/json_fields.hpp"
#include "checkpoints/model_folder.hpp"
#include "checkpoints/model_weights.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* peft_config = "adapter_config.json";
constexpr const char* peft_weights = "adapter_model.safetensors";

/// A matrix's adapter as a file has it: W' = W + scale B A with a rank of its own.
struct Found {
  std::vector<float> a, b;
  index_t rank = 0;
  double scale = 1;
};
/// By the name of the model's matrix.
using FoundByName = std::map<std::string, Found>;

/// Which of the two matrices of an adapter.
enum class Side { a, b };

/// The matrices of a model by their names, and what a message says of them.
class Targets {
 public:
  explicit Targets(const DecoderConfig& config) {
    for (index_t block = 0; block < config.layers; ++block)
      for (const MatrixKind kind : all_matrix_kinds)
        extents_[matrix_name(block, kind)] = {block, kind, matrix_extents(config, kind), {}, {}};
  }
  /// Null where the model has no such matrix.
  const AdapterMatrix* find(const std::string& name) const {
    const auto found = extents_.find(name);
    return found == extents_.end() ? nullptr : &found->second;
  }
  const std::map<std::string, AdapterMatrix>& all() const { return extents_; }

 private:
  std::map<std::string, AdapterMatrix> extents_;
};

constexpr const char* known_matrices =
    "expected lora_A and lora_B beside q, k, v, o, gate, up and down of the model's blocks alone";

/// Puts one of the two matrices in. `shape`: as the file has it; `where` begins messages.
void put(FoundByName& found, const std::string& name, const AdapterMatrix& target, Side side,
         const std::vector<index_t>& shape, std::vector<float> values, const std::string& where) {
  const index_t extent = side == Side::a ? target.extents.in : target.extents.out;
  const bool fits =
      shape.size() == 2 && shape[side == Side::a ? 1 : 0] == extent && shape[side == Side::a ? 0 : 1] >= 1;
  if (!fits) {
    const std::string wanted =
        side == Side::a ? "[rank, " + std::to_string(extent) + "]" : "[" + std::to_string(extent) + ", rank]";
    throw ModelError(where + " has the shape " + io::shape_list_text(shape) + ", expected " + wanted +
                     " beside the model's \"" + name + "\": the adapter is another model's");
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!is_finite(values[i]))
      throw ModelError(where + " has " + (is_nan(values[i]) ? "NaN" : "Inf") + " at element " +
                       std::to_string(i) + ", expected finite numbers");
  }
  Found& adapter = found[name];
  std::vector<float>& to = side == Side::a ? adapter.a : adapter.b;
  if (!to.empty()) throw ModelError(where + ": the matrix \"" + name + "\" has two of it, expected one");
  to = std::move(values);
  const index_t rank = shape[side == Side::a ? 0 : 1];
  if (adapter.rank != 0 && adapter.rank != rank) {
    throw ModelError(where + " is of rank " + std::to_string(rank) + ", the other matrix beside \"" + name +
                     "\" of " + std::to_string(adapter.rank));
  }
  adapter.rank = rank;
}

/// All of one rank and scale, block by block and kind by kind.
Adapter joined(const FoundByName& found, const Targets& targets, const std::string& path) {
  if (found.empty()) throw ModelError(path + ": holds no adapter, " + known_matrices);
  Adapter adapter;
  adapter.scale = 0;
  std::set<index_t> blocks;
  std::set<MatrixKind> kinds;
  for (const auto& [name, f] : found) {
    if (f.a.empty() || f.b.empty()) {
      throw ModelError(path + ": beside \"" + name + "\" is a " + (f.a.empty() ? "lora_B" : "lora_A") +
                       " without its " + (f.a.empty() ? "lora_A" : "lora_B"));
    }
    adapter.rank = std::max(adapter.rank, f.rank);
    if (adapter.scale == 0) adapter.scale = f.scale;
    blocks.insert(targets.find(name)->block);
    kinds.insert(targets.find(name)->kind);
  }
  for (const index_t block : blocks) {
    for (const MatrixKind kind : kinds) {
      const std::string name = matrix_name(block, kind);
      AdapterMatrix matrix = *targets.find(name);
      const auto [out, in] = matrix.extents;
      if (const auto at = found.find(name); at != found.end()) {
        const Found& f = at->second;
        matrix.a = zero_padded(f.a, f.rank, in, adapter.rank, in);
        matrix.b = zero_padded(f.b, out, f.rank, out, adapter.rank);
        const double factor = f.scale / adapter.scale;
        for (float& x : matrix.b) {
          x = static_cast<float>(factor * static_cast<double>(x));
          if (!is_finite(x))
            throw ModelError(path + ": the scale beside \"" + name + "\" is " + fmt::format("{}", f.scale) +
                             ", that beside another matrix " + fmt::format("{}", adapter.scale) +
                             ": too far apart for one scale");
        }
      } else {  // both of zeros, which training leaves as they are
        matrix.a.resize(static_cast<std::size_t>(adapter.rank * in));
        matrix.b.resize(static_cast<std::size_t>(out * adapter.rank));
      }
      adapter.matrices.push_back(std::move(matrix));
    }
  }
  return adapter;
}

/// A value of "rank_pattern" or "alpha_pattern" for a module's name, as peft looks for it: the pattern is its end.
std::optional<double> pattern_value(const json& config, const char* key, const std::string& module,
                                    const std::string& source) {
  const json* patterns = fields::find(config, key);
  if (patterns == nullptr) return std::nullopt;
  if (!patterns->is_object())
    fields::fail(source,
                 std::string("the field \"") + key + "\" is " + patterns->dump() + ", expected an object");
  for (const auto& [pattern, value] : patterns->items()) {
    if (pattern.find_first_of("\\^$*+?()[]{}|") != std::string::npos) {
      fields::fail(source, std::string("the field \"") + key + "\" has the regular expression \"" + pattern +
                               "\", expected ends of names such as \"mlp.up_proj\"");
    }
    const bool ends = module == pattern || module.ends_with("." + pattern);
    if (ends) return fields::number_or(*patterns, pattern.c_str(), 0, source);
  }
  return std::nullopt;
}

/// Refuses what is no plain LoRA.
void require_plain_lora(const json& j, const std::string& source) {
  const std::string type = fields::text_or(j, "peft_type", "", source);
  if (type != "LORA") fields::fail(source, "\"peft_type\" is \"" + type + "\", expected \"LORA\"");
  constexpr std::pair<const char*, const char*> foreign[] = {
      {"use_dora", "a LoRA without magnitudes (DoRA) is what the engine has"},
      {"use_qalora", "a plain LoRA is what the engine has"},
      {"use_bdlora", "a plain LoRA is what the engine has"},
      {"modules_to_save",
       "whole modules beside the LoRA are not read; merge it in peft: "
       "model.merge_and_unload().save_pretrained(FOLDER)"},
      {"lora_bias", "the engine's adapters have no biases"},
      {"fan_in_fan_out", "the matrices of this model are stored [out, in]"},
      {"layer_replication", "the engine has the model's own blocks alone"},
      {"trainable_token_indices", "rows of the embeddings are not read; merge it in peft"},
      {"target_parameters", "the engine has adapters beside modules alone"},
      {"alora_invocation_tokens", "an adapter that begins at some token is another model"},
      {"arrow_config", "a plain LoRA is what the engine has"},
      {"kasa_config", "a plain LoRA is what the engine has"},
      {"monteclora_config", "a plain LoRA is what the engine has"},
  };
  for (const auto& [key, cure] : foreign)
    fields::refuse_field(j, key, cure, source);
  fields::require_text(j, "bias", "none", source);
  const json* init = fields::find(j, "init_lora_weights");
  if (init == nullptr || init->is_boolean() || *init == "gaussian" || *init == "eva" || *init == "orthogonal")
    return;
  fields::fail(source, "\"init_lora_weights\" is " + init->dump() +
                           ", which changes the model's own weights first; save the adapter in peft with "
                           "path_initial_model_for_weight_conversion, as a plain LoRA");
}

Adapter read_peft(const fs::path& folder, const Targets& targets) {
  const fs::path config_path = folder / peft_config;
  const fs::path weights_path = folder / peft_weights;
  std::error_code code;
  if (!fs::exists(config_path, code)) {
    const bool is_model = fs::exists(folder / config_file, code);
    throw ModelError(folder.string() + ": has no " + peft_config +
                     (is_model ? ", but config.json: it is a whole model, give it as --model"
                               : "; expected the folder of a peft adapter, a GGUF adapter or a delta"));
  }
  if (!fs::exists(weights_path, code)) {
    const bool pickled = fs::exists(folder / "adapter_model.bin", code);
    throw ModelError(weights_path.string() + ": is missing" +
                     (pickled ? "; adapter_model.bin holds Python objects: save it in peft with "
                                "model.save_pretrained(FOLDER, safe_serialization=True)"
                              : ""));
  }
  require_content(weights_path, true);
  const std::string source = config_path.string();
  const json config = read_json(config_path);
  if (!config.is_object())
    fields::fail(source, std::string("expected an object, found ") + config.type_name());
  require_plain_lora(config, source);
  const bool rs = fields::flag_or(config, "use_rslora", false, source);
  const double alpha = fields::number_or(config, "lora_alpha", 8, source);

  const io::SafetensorsFile file(weights_path.string());
  FoundByName found;
  for (const std::string& tensor : file.names()) {
    std::string name = "model." + bare_name(tensor);
    const std::string where = weights_path.string() + ": the tensor \"" + tensor + "\"";
    std::optional<Side> side;
    for (const auto& [mark, of] : {std::pair(".lora_A.", Side::a), std::pair(".lora_B.", Side::b)}) {
      const std::size_t at = name.find(mark);
      if (at == std::string::npos) continue;
      const std::string rest = name.substr(at + 8);
      if (rest == "weight" || rest == "default.weight") side = of;
      name = name.substr(0, at) + ".weight";
    }
    const AdapterMatrix* target = targets.find(name);
    if (!side || target == nullptr) throw ModelError(where + " is not known, " + known_matrices);
    put(found, name, *target, *side, file.find(tensor).shape, file.read_as<float>(tensor), where);
    const std::string module = name.substr(0, name.rfind('.'));
    Found& f = found[name];
    const double own = pattern_value(config, "alpha_pattern", module, source).value_or(alpha);
    const auto rank = static_cast<double>(f.rank);
    const double named = pattern_value(config, "rank_pattern", module, source)
                             .value_or(fields::number_or(config, "r", rank, source));
    if (named != rank) {
      throw ModelError(where + " is of rank " + std::to_string(f.rank) + ", expected the rank in " + source +
                       ": " + fmt::format("{}", named));
    }
    f.scale = own / (rs ? std::sqrt(rank) : rank);
    if (!is_finite(f.scale) || f.scale <= 0)
      fields::fail(source, "\"lora_alpha\" is " + std::to_string(own) + ", expected a number above 0");
  }
  return joined(found, targets, weights_path.string());
}

Adapter read_gguf(const fs::path& path, const Targets& targets, const DecoderConfig& config) {
  const GgufFile file(path.string());
  const auto require = [&](const char* key, std::string_view wanted, const char* cure) {
    const auto value = file.get<std::string_view>(key);
    if (value && *value == wanted) return;
    throw ModelError(path.string() + ": metadata '" + key + "' is " +
                     (value ? "'" + std::string(*value) + "'" : "missing") + ", expected '" +
                     std::string(wanted) + "'" + cure);
  };
  require("general.type", "adapter", ": a GGUF file of a whole model is given as --model");
  require("adapter.type", "lora", "");
  require("general.architecture", gguf_architecture(config), ", the model's");
  if (file.contains_key("adapter.alora.invocation_tokens"))
    throw file.error("is an adapter that begins at some token (aLoRA), expected a plain LoRA");
  const double alpha = file.at<double>("adapter.lora.alpha");
  FoundByName found;
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string where = path.string() + ": tensor '" + tensor.name + "'";
    std::optional<Side> side;
    if (tensor.name.ends_with(".lora_a")) side = Side::a;
    if (tensor.name.ends_with(".lora_b")) side = Side::b;
    const std::string stored = tensor.name.substr(0, tensor.name.size() - (side ? 7 : 0));
    const auto target = std::find_if(targets.all().begin(), targets.all().end(),
                                     [&](const auto& t) { return gguf_name(t.first) == stored; });
    if (!side || target == targets.all().end()) throw ModelError(where + " is not known, " + known_matrices);
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    file.dequantize(tensor, 0, tensor.rows(), values);
    const bool fits = tensor.shape.size() == 2 && tensor.rows() == target->second.extents.out;
    if (*side == Side::b && fits)
      values = hugging_face_row_order(config, target->first, values, tensor.cols());
    put(found, target->first, target->second, *side, tensor.shape, std::move(values), where);
  }
  // llama.cpp takes an alpha of 0 for a scale of 1.
  for (auto& [name, f] : found)
    f.scale = alpha != 0 ? alpha / static_cast<double>(f.rank) : 1;
  if (!is_finite(alpha) || alpha < 0)
    throw ModelError(path.string() + ": metadata 'adapter.lora.alpha' is " + std::to_string(alpha) +
                     ", expected a number from 0");
  return joined(found, targets, path.string());
}

}  // namespace

Adapter read_adapter(const fs::path& path, const DecoderConfig& config) {
  const Targets targets(config);
  std::error_code code;
  if (!fs::exists(path, code))
    throw ModelError(path.string() +
                     ": there is no such adapter, expected peft's folder, a GGUF file or a delta");
  if (fs::is_directory(path, code)) return read_peft(path, targets);
  if (path.filename() == peft_weights) return read_peft(path.parent_path(), targets);
  return read_gguf(path, targets, config);
}

}  // namespace sparsegrad::finetune
