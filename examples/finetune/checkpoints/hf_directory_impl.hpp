// Definitions of load_weights and save_model, for the files that instantiate them.
#pragma once

#include <set>
#include <utility>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/hf_directory.hpp"
#include "checkpoints/model_weights.hpp"
#include "checkpoints/written_folder.hpp"

namespace sparsegrad::finetune {

namespace detail {

std::string weights_path(const std::filesystem::path& directory);
/// The files' name for a parameter; empty where it has none and may do without. Throws ModelError otherwise, and where
/// several tensors could be it.
std::string tensor_of(const ModelWeights& weights, const ModelConfig& config, const std::string& name);
/// What LoadReport::unused is, of the names that are not `used`. Throws ModelError when one is of a layer beyond
/// config.json's.
std::vector<std::string> unused_names(const ModelWeights& weights, const ModelConfig& config,
                                      const std::set<std::string>& used);
/// The file's head, `shape` its weight's, beside the model's. Throws ModelError when config.json gives it another number
/// of outputs.
HeadMatch match_file_head(const ModelDirectory& directory, const std::string& tensor,
                          const std::vector<index_t>& shape, const ModelConfig& model_config);
/// config.json and the tokenizer's files.
void write_companions(const std::filesystem::path& path, const ModelDirectory& source,
                      const ModelConfig& model_config, io::DType dtype);

/// Row rows[i] of x, which has as many rows, becomes row i.
template <class C>
std::vector<C> permuted_rows(const std::vector<C>& x, const std::vector<index_t>& rows) {
  const std::size_t width = x.size() / rows.size();
  std::vector<C> y;
  for (const index_t row : rows) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * width);
    y.insert(y.end(), first, first + static_cast<std::ptrdiff_t>(width));
  }
  return y;
}

template <class T>
std::vector<index_t> shape_of(const Parameter<T>& p) {
  if (p.is_bias_or_norm()) return {p.weight.cols};
  return {p.weight.rows, p.weight.cols};
}

}  // namespace detail

template <class T, class Backend>
LoadReport load_weights(const ModelDirectory& directory, EncoderModel<T, Backend>& model,
                        std::uint64_t seed) {
  const ModelWeights file(directory.path);
  LoadReport report;
  std::set<std::string> used;
  std::set<std::string> made;
  const std::string output = head_names(model.config()).output + ".";
  if (const std::string at = detail::tensor_of(file, model.config(), output + "weight"); !at.empty())
    report.head = detail::match_file_head(directory, at, file.find(at).shape, model.config());
  for (Parameter<T>& p : model.parameters().all()) {
    const bool of_output = p.name.starts_with(output);
    if (p.kind == ParameterKind::adapter) {
      made.insert(p.name);
      continue;
    }
    const std::string at =
        of_output && !report.head.usable ? "" : detail::tensor_of(file, model.config(), p.name);
    if (at.empty()) {
      report.initialized.push_back(p.name);
      made.insert(p.name);
      continue;
    }
    std::vector<compute_t<T>> values = file.template read_as<compute_t<T>>(at);
    (void)file.find(at, detail::shape_of(p));
    if (of_output && !report.head.rows.empty()) values = detail::permuted_rows(values, report.head.rows);
    model.set_values(p.weight, values);
    used.insert(at);
  }
  model.initialize(seed, [&](std::string_view name) { return made.contains(std::string(name)); });
  report.unused = detail::unused_names(file, model.config(), used);
  return report;
}

template <class T, class Backend>
void save_model(const std::filesystem::path& path, const ModelDirectory& source,
                const EncoderModel<T, Backend>& model, io::DType dtype) {
  using C = compute_t<T>;
  detail::write_companions(path, source, model.config(), dtype);
  TensorsToWrite<C> tensors(dtype);
  for (const Parameter<T>& p : model.parameters().all()) {
    if (p.kind == ParameterKind::adapter) continue;
    tensors.add(p.name, detail::shape_of(p), [&model, &p] {
      auto merged = model.merged(p);
      return merged ? std::move(*merged) : model.values(p.weight);
    });
  }
  tensors.write(detail::weights_path(path));
}

}  // namespace sparsegrad::finetune
