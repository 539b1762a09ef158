#include "checkpoints/decoder_folder.hpp"

#include <charconv>
#include <set>
#include <span>
#include <utility>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/decoder_config_file.hpp"
#include "checkpoints/model_folder.hpp"
#include "checkpoints/written_folder.hpp"
#include "models/host_backend.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

constexpr const char* companions[] = {
    "tokenizer.json",     "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",         "added_tokens.json",     "tokenizer.model",         "chat_template.jinja",
    "chat_template.json", "generation_config.json"};

std::string join(std::span<const std::string> names) {
  std::string text;
  for (const std::string& name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// The number of the block that a tensor is of; -1 where it is of none.
index_t block_of(std::string_view tensor) {
  constexpr std::string_view blocks = "layers.";
  const std::string bare = bare_name(tensor);
  std::string_view name = bare;
  if (!name.starts_with(blocks)) return -1;
  name.remove_prefix(blocks.size());
  index_t number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && number >= 0 ? number : -1;
}

/// The names that are not `used`. Throws ModelError where one is of a block: the model is another one then.
std::vector<std::string> unused_names(const ModelWeights& weights, const DecoderConfig& config,
                                      const std::set<std::string>& used) {
  std::vector<std::string> unused;
  for (const std::string& name : weights.names()) {
    // The frequencies of the positions, which the first LLaMAs' files hold.
    if (used.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    const index_t block = block_of(name);
    if (block >= config.layers) {
      throw ModelError(weights.path() + ": the tensor \"" + name + "\" is of block " + std::to_string(block) +
                       ", and \"num_hidden_layers\" of " + config_file + " is " +
                       std::to_string(config.layers) +
                       ": correct it there, or take the file of weights that belongs to it");
    }
    if (block >= 0) {
      throw ModelError(weights.path() + ": the tensor \"" + name + "\" has no place in a block of the \"" +
                       std::string(to_string(config.family)) +
                       "\" family as config.json describes it; the model would be another one without it");
    }
    unused.push_back(name);
  }
  if (weights.has_unread_index())
    unused.push_back(std::string("the shards of ") + shards_file + " (" + weights_file + " goes first)");
  return unused;
}

template <class T>
std::vector<index_t> shape_of(const Parameter<T>& p) {
  if (p.is_bias_or_norm()) return {p.cols()};
  return {p.rows(), p.cols()};
}

}  // namespace

DecoderFolder open_decoder_folder(const fs::path& path) {
  require_model_folder(path);
  for (const std::string& name : decoder_file_names())
    if (fs::exists(path / name)) require_content(path / name, name == weights_file);
  DecoderFolder folder;
  folder.path = path;
  const fs::path config = path / config_file;
  folder.config_json = read_json(config);
  folder.config = parse_decoder_config(folder.config_json, config.string());
  return folder;
}

std::string decoder_tensor(const ModelWeights& weights, const std::string& name) {
  const std::string bare = bare_name(name);
  const std::span<const std::string> found = weights.spelled(bare);
  if (found.size() == 1) return found[0];
  if (found.size() > 1) {
    throw ModelError(weights.path() + ": several tensors could be \"" + name + "\": " + join(found) +
                     "; expected one");
  }
  const char* cure = name == "lm_head.weight"
                         ? "; if the head's matrix is the embeddings' table, set \"tie_word_embeddings\" to "
                           "true in config.json"
                         : "";
  throw ModelError(weights.path() + ": the tensor \"" + name + "\" is missing" + weights.unlisted(bare) +
                   cure);
}

std::string DecoderLoadReport::text() const {
  return unused.empty() ? "" : "not used: " + join(unused);
}

std::vector<std::string> decoder_file_names() {
  std::vector<std::string> names{weights_file, config_file};
  names.insert(names.end(), std::begin(companions), std::end(companions));
  return names;
}

template <class T, class Backend>
DecoderLoadReport load_weights(const DecoderFolder& folder, DecoderModel<T, Backend>& model,
                               std::uint64_t seed) {
  const ModelWeights file(folder.path);
  std::set<std::string> used;
  std::set<std::string, std::less<>> made;
  for (Parameter<T>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) {
      made.insert(p.name);
      continue;
    }
    const std::string at = decoder_tensor(file, p.name);
    (void)file.find(at, shape_of(p));
    model.set_values(p.weight, file.template read_as<compute_t<T>>(at));
    used.insert(at);
  }
  model.initialize(seed, [&](std::string_view name) { return made.contains(name); });
  return {unused_names(file, model.config(), used)};
}

template <class T, class Backend>
void save_decoder(const fs::path& path, const DecoderFolder& source, const DecoderModel<T, Backend>& model,
                  io::DType dtype) {
  make_model_folder(path);
  if (!source.path.empty()) copy_files(source.path, path, companions);
  write_text(path / config_file, to_json(model.config(), source.config_json, dtype).dump(2) + "\n");
  TensorsToWrite<compute_t<T>> tensors(dtype);
  for (const Parameter<T>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) continue;
    tensors.add(p.name, shape_of(p), [&model, &p] {
      auto merged = model.merged(p);
      return merged ? std::move(*merged) : model.values_of(p);
    });
  }
  tensors.write(path / weights_file);
}

#define SPARSEGRAD_DECODER_INSTANTIATE(T)                                                                \
  template DecoderLoadReport load_weights(const DecoderFolder&, DecoderModel<T, HostBackend>&,           \
                                          std::uint64_t);                                                \
  template void save_decoder(const fs::path&, const DecoderFolder&, const DecoderModel<T, HostBackend>&, \
                             io::DType);
SPARSEGRAD_DECODER_INSTANTIATE(float)
SPARSEGRAD_DECODER_INSTANTIATE(double)
SPARSEGRAD_DECODER_INSTANTIATE(bfloat16)
#undef SPARSEGRAD_DECODER_INSTANTIATE

}  // namespace sparsegrad::finetune
