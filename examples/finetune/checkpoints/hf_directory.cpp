#include "checkpoints/hf_directory_impl.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <span>

#include "models/host_backend.hpp"

#include "checkpoints/model_folder.hpp"
#include "checkpoints/written_folder.hpp"

namespace sparsegrad::finetune {

namespace {

constexpr const char* saved_files[] = {weights_file, config_file,
                                       // the tokenizer's
                                       "vocab.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json",
                                       "merges.txt", "special_tokens_map.json", "added_tokens.json"};
constexpr std::span<const char* const> tokenizer_files = std::span(saved_files).subspan(2);

bool may_be_missing(const ModelConfig& config, std::string_view name) {
  const HeadNames head = head_names(config);
  return name.starts_with(head.dense) || name.starts_with(head.output);
}

/// The names under which files may hold a parameter, the usual one first.
std::vector<std::string> spellings(const std::string& name, const std::string& prefix) {
  std::vector<std::string> names{name};
  const auto with_old_norm = [&](const std::string& base) {
    for (const auto& [now, before] :
         {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, std::pair{"LayerNorm.bias", "LayerNorm.beta"}}) {
      const std::string_view suffix(now);
      if (base.ends_with(suffix)) names.push_back(base.substr(0, base.size() - suffix.size()).append(before));
    }
  };
  with_old_norm(name);
  if (name.starts_with(prefix)) {
    const std::string bare = name.substr(prefix.size());
    names.push_back(bare);
    with_old_norm(bare);
  }
  return names;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

/// How many layers a model has that has this tensor; 0 where it is none of a layer's.
index_t layers_up_to(std::string_view tensor, const ModelConfig& config) {
  constexpr std::string_view layer = "encoder.layer.";
  const std::string bare = bare_name(tensor);
  std::string_view name = bare;
  if (name.starts_with(config.prefix())) name.remove_prefix(config.prefix().size());
  if (!name.starts_with(layer)) return 0;
  name.remove_prefix(layer.size());
  index_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool is_number = error == std::errc() && number >= 0 && number < std::numeric_limits<index_t>::max();
  return is_number && end != name.data() + name.size() && *end == '.' ? number + 1 : 0;
}

}  // namespace

std::span<const char* const> saved_file_names() {
  return saved_files;
}

ModelDirectory open_model_directory(const std::filesystem::path& path) {
  require_model_folder(path);
  for (const char* name : saved_files)
    if (std::filesystem::exists(path / name)) require_content(path / name, name == saved_files[0]);
  ModelDirectory directory;
  directory.path = path;
  const std::filesystem::path config = path / config_file;
  directory.config_json = read_json(config);
  directory.config = parse_encoder_config(directory.config_json, config.string());
  directory.labels = parse_head_labels(directory.config_json, config.string());
  set_head(directory.config, directory.labels);
  return directory;
}

std::string LoadReport::head_text() const {
  const std::string both = "the file's has " + head.found + ", the task asks for " + head.wanted;
  if (!head.usable) return "new: " + both;
  if (!head.rows.empty()) return "in the task's order: " + both;
  if (head.by_number) return "the file's, which has no names for its outputs: taken for " + head.wanted;
  return head.found.empty() ? "new: the file has none" : "the file's";
}

std::string LoadReport::unused_text() const {
  return unused.empty() ? "" : "not used: " + join(unused);
}

std::string LoadReport::text() const {
  std::vector<std::string> parts;
  if (!head.usable || !head.rows.empty()) parts.push_back("head " + head_text());
  if (!initialized.empty()) parts.push_back("newly initialised: " + join(initialized));
  if (!unused.empty()) parts.push_back(unused_text());
  std::string text;
  for (const std::string& part : parts)
    text += (text.empty() ? "" : "; ") + part;
  return text;
}

namespace detail {

std::string weights_path(const std::filesystem::path& directory) {
  return (directory / weights_file).string();
}

std::string tensor_of(const ModelWeights& weights, const ModelConfig& config, const std::string& name) {
  const std::vector<std::string> names = spellings(name, config.prefix());
  std::set<std::string> found;
  for (const std::string& spelling : names) {
    const std::span<const std::string> in_files = weights.spelled(spelling);
    found.insert(in_files.begin(), in_files.end());
  }
  if (found.size() > 1) {
    throw ModelError(weights.path() + ": several tensors could be \"" + name +
                     "\": " + join({found.begin(), found.end()}) + "; expected one");
  }
  if (!found.empty()) return *found.begin();
  if (may_be_missing(config, name)) return "";
  std::string elsewhere;
  for (const std::string& spelling : names)
    if (elsewhere.empty()) elsewhere = weights.unlisted(spelling);
  throw ModelError(weights.path() + ": the tensor \"" + name + "\" is missing (looked for " + join(names) +
                   ")" + elsewhere);
}

std::vector<std::string> unused_names(const ModelWeights& weights, const ModelConfig& config,
                                      const std::set<std::string>& used) {
  std::vector<std::string> unused;
  index_t layers = 0;
  std::string of_last;
  for (const std::string& name : weights.names()) {
    if (used.contains(name)) continue;
    unused.push_back(name);
    if (const index_t count = layers_up_to(name, config); count > layers) {
      layers = count;
      of_last = name;
    }
  }
  if (layers > config.layers) {
    throw ModelError(weights.path() + ": the tensor \"" + of_last + "\" makes " + std::to_string(layers) +
                     " layers, and \"num_hidden_layers\" of " + config_file + " is " +
                     std::to_string(config.layers) +
                     ": correct it there, or take the file of weights that belongs to it");
  }
  if (weights.has_unread_index())
    unused.push_back(std::string("the shards of ") + shards_file + " (" + weights_file + " goes first)");
  return unused;
}

HeadMatch match_file_head(const ModelDirectory& directory, const std::string& tensor,
                          const std::vector<index_t>& shape, const ModelConfig& model_config) {
  const HeadLabels& labels = directory.labels;
  const index_t outputs = shape.empty() ? 0 : shape.front();
  // A head for another use has outputs that labels do not count.
  if (labels.count > 0 && labels.count != outputs && labels.use.empty()) {
    throw ModelError(directory.path.string() + ": the tensor \"" + tensor + "\" has " +
                     std::to_string(outputs) + " rows, one an output, and " + config_file + " speaks of " +
                     std::to_string(labels.count) +
                     ": correct \"id2label\" there, or take the file of weights that belongs to it");
  }
  return match_head(labels, outputs, model_config);
}

void write_companions(const std::filesystem::path& path, const ModelDirectory& source,
                      const ModelConfig& model_config, io::DType dtype) {
  make_model_folder(path);
  copy_files(source.path, path, tokenizer_files);
  write_text(path / config_file, to_json(model_config, source.config_json, dtype).dump(2) + "\n");
}

}  // namespace detail

#define SPARSEGRAD_GLUE_INSTANTIATE(T)                                                                   \
  template LoadReport load_weights(const ModelDirectory&, EncoderModel<T, HostBackend>&, std::uint64_t); \
  template void save_model(const std::filesystem::path&, const ModelDirectory&,                          \
                           const EncoderModel<T, HostBackend>&, io::DType);
SPARSEGRAD_GLUE_INSTANTIATE(float)
SPARSEGRAD_GLUE_INSTANTIATE(double)
SPARSEGRAD_GLUE_INSTANTIATE(bfloat16)
#undef SPARSEGRAD_GLUE_INSTANTIATE

}  // namespace sparsegrad::finetune
