// Definitions of load_weights and save_decoder, for the files that instantiate them.
#pragma once

#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/decoder_config_file.hpp"
#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/folder_packed.hpp"
#include "checkpoints/model_folder.hpp"
#include "checkpoints/written_folder.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// The names that are not `used`. Throws ModelError where one is of a block: the model is another one then.
std::vector<std::string> unused_decoder_tensors(const ModelWeights& weights, const DecoderConfig& config,
                                                const std::set<std::string>& used);

/// Files that belong to a model beside its weights and its configuration.
std::span<const char* const> decoder_companions();

template <class T>
std::vector<index_t> decoder_shape_of(const Parameter<T>& p) {
  if (p.is_bias_or_norm()) return {p.cols()};
  return {p.rows(), p.cols()};
}

}  // namespace detail

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
    used.insert(at);
    if (p.packed != nullptr) {
      require_finite(file, at, *p.packed);
      continue;
    }
    (void)file.find(at, detail::decoder_shape_of(p));
    model.set_values(p.weight, file.template read_as<compute_t<T>>(at));
  }
  model.initialize(seed, [&](std::string_view name) { return made.contains(name); });
  return {detail::unused_decoder_tensors(file, model.config(), used)};
}

template <class T, class Backend>
void save_decoder(const std::filesystem::path& path, const DecoderFolder& source,
                  const DecoderModel<T, Backend>& model, io::DType dtype) {
  make_model_folder(path);
  if (!source.path.empty()) copy_files(source.path, path, detail::decoder_companions());
  write_text(path / config_file, to_json(model.config(), source.config_json, dtype).dump(2) + "\n");
  TensorsToWrite<compute_t<T>> tensors(dtype);
  for (const Parameter<T>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) continue;
    tensors.add(p.name, detail::decoder_shape_of(p), [&model, &p] {
      auto merged = model.merged(p);
      return merged ? std::move(*merged) : model.values_of(p);
    });
  }
  tensors.write(path / weights_file);
}

}  // namespace sparsegrad::finetune
