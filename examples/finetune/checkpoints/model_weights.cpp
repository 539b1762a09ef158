#include "checkpoints/model_weights.hpp"

#include <algorithm>
#include <iterator>
#include <system_error>

#include <nlohmann/json.hpp>
#include <sparsegrad/core/float_bits.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/model_folder.hpp"
#include "models/model_error.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t from = 0; from <= name.size();) {
    const std::size_t to = std::min(name.find('.', from), name.size());
    parts.push_back(name.substr(from, to - from));
    from = to + 1;
  }
  return parts;
}

template <std::size_t n>
bool is_one_of(std::string_view part, const std::string_view (&list)[n]) {
  return std::find(std::begin(list), std::end(list), part) != std::end(list);
}

/// Whether a tensor belongs to an adapter beside the weights, without which they are another model.
bool is_of_an_adapter(std::string_view name) {
  static constexpr std::string_view marks[] = {"base_layer", "modules_to_save", "original_module",
                                               "adapters"};
  const std::vector<std::string_view> parts = parts_of(name);
  return std::any_of(parts.begin(), parts.end(), [](std::string_view part) {
    return part.starts_with("lora_") || part.starts_with("ia3_") || is_one_of(part, marks);
  });
}

template <class T>
void check_finite(const io::SafetensorsFile& file, std::string_view name, std::span<const T> values,
                  index_t first) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (is_finite(values[i])) continue;
    throw ModelError(file.error(name, std::string("has ") + (is_nan(values[i]) ? "NaN" : "Inf") +
                                          " at element " + std::to_string(first + static_cast<index_t>(i)) +
                                          ", expected finite numbers")
                         .what());
  }
}

}  // namespace

std::string bare_name(std::string_view name) {
  // DataParallel and DistributedDataParallel, torch.compile, FSDP, activation checkpoints, Lightning Fabric.
  static constexpr std::string_view wrappers[] = {"module", "_orig_mod", "_fsdp_wrapped_module",
                                                  "_checkpoint_wrapped_module", "_forward_module"};
  // A model as a member of another: a Lightning module, peft after a merge, sentence-transformers.
  static constexpr std::string_view holders[] = {"model", "base_model", "0", "auto_model"};
  std::string bare;
  for (const std::string_view part : parts_of(name)) {
    if (is_one_of(part, wrappers) || (bare.empty() && is_one_of(part, holders))) continue;
    if (!bare.empty()) bare += '.';
    bare += part;
  }
  return bare;
}

ModelWeights::ModelWeights(const fs::path& folder) {
  if (const fs::path one = folder / weights_file; fs::exists(one)) {
    path_ = one.string();
    has_unread_index_ = fs::exists(folder / shards_file);
    require_content(one, true);
    files_.emplace_back(path_);
    for (const std::string& name : files_[0].names())
      file_.emplace(name, 0);
  } else {
    path_ = (folder / shards_file).string();
    open_shards(folder);
  }
  for (const auto& [name, unused] : file_) {
    if (is_of_an_adapter(name)) {
      throw ModelError(path_ + ": the tensor \"" + name +
                       "\" belongs to an adapter that is not merged into the weights; merge it first (peft: "
                       "model.merge_and_unload().save_pretrained(FOLDER))");
    }
    bare_[bare_name(name)].push_back(name);
  }
}

void ModelWeights::open_shards(const fs::path& folder) {
  const auto fail = [&](const std::string& text) { throw ModelError(path_ + ": " + text); };
  require_content(path_, false);
  const json index = read_json(path_);
  const auto at = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || at == index.end() || !at->is_object() || at->empty())
    fail("has no \"weight_map\", expected an object of shards by tensor name");

  std::map<std::string, std::vector<std::string>> shards;  // the names of each one's tensors
  for (const auto& [name, shard] : at->items()) {
    if (!shard.is_string())
      fail("weight_map: \"" + name + "\" is " + shard.dump() + ", expected a file's name");
    shards[shard.get<std::string>()].push_back(name);
  }
  std::string missing;
  std::size_t missing_count = 0;
  for (const auto& [shard, names] : shards) {
    const fs::path file(shard);
    // A NUL would end the name that the system sees.
    const bool has_nul = shard.find('\0') != std::string::npos;
    if (shard.empty() || has_nul || file.filename() != file || shard == "." || shard == "..") {
      fail("weight_map: " + json(names[0]).dump() + " is in " + json(shard).dump() +
           ", expected a file of this folder");
    }
    if (!shard.ends_with(".safetensors")) {
      fail("weight_map: \"" + names[0] + "\" is in \"" + shard + "\", expected safetensors files");
    }
    std::error_code no_error;  // a name may be longer than a file's can be
    if (fs::exists(folder / file, no_error)) continue;
    if (++missing_count <= 3) missing += (missing.empty() ? "" : ", ") + shard;
  }
  if (missing_count > 0) {
    fail(std::to_string(missing_count) + " of " + std::to_string(shards.size()) + " shards are missing (" +
         missing + (missing_count > 3 ? ", ..." : "") + "); fetch them as well");
  }
  for (const auto& [shard, names] : shards) {
    const std::string file = (folder / shard).string();
    require_content(file, true);
    files_.emplace_back(file);
    for (const std::string& name : names)
      file_.emplace(name, files_.size() - 1);
  }
  for (const auto& [name, number] : file_) {
    if (files_[number].contains(name)) continue;
    const auto holder = std::find_if(files_.begin(), files_.end(),
                                     [&, &name = name](const auto& file) { return file.contains(name); });
    const std::string shard = fs::path(files_[number].path()).filename().string();
    fail("weight_map: the tensor \"" + name + "\" is to be in " + shard + ", which does not hold it; " +
         (holder == files_.end() ? "no other shard does: index and shards are not of one model"
                                 : fs::path(holder->path()).filename().string() + " does"));
  }
}

std::vector<std::string> ModelWeights::names() const {
  std::vector<std::string> names;
  for (const io::SafetensorsFile& file : files_) {
    for (std::string& name : file.names())
      if (const auto at = file_.find(name); at != file_.end() && &files_[at->second] == &file)
        names.push_back(std::move(name));
  }
  return names;
}

std::span<const std::string> ModelWeights::spelled(std::string_view bare) const {
  const auto at = bare_.find(bare);
  return at == bare_.end() ? std::span<const std::string>() : std::span<const std::string>(at->second);
}

std::string ModelWeights::unlisted(std::string_view name) const {
  for (const io::SafetensorsFile& file : files_)
    for (const std::string& held : file.names())
      if (bare_name(held) == name && !file_.contains(held))
        return "; " + file.path() + " holds it, but the index does not list it";
  return "";
}

const io::SafetensorsFile& ModelWeights::file_of(std::string_view name) const {
  const auto at = file_.find(name);
  return files_[at == file_.end() ? 0 : at->second];
}

void ModelWeights::require_finite(std::string_view name, std::span<const float> values, index_t first) const {
  check_finite(file_of(name), name, values, first);
}
void ModelWeights::require_finite(std::string_view name, std::span<const double> values,
                                  index_t first) const {
  check_finite(file_of(name), name, values, first);
}

}  // namespace sparsegrad::finetune
