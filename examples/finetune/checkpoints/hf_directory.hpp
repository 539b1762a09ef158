#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "checkpoints/config_file.hpp"
#include "models/encoder/encoder_model.hpp"

namespace sparsegrad::finetune {

/// A Hugging Face model directory: config.json, model.safetensors (or its shards) and the tokenizer's
/// files.
struct ModelDirectory {
  std::filesystem::path path;
  nlohmann::json config_json;
  /// What config_json says of the file's head.
  HeadLabels labels;
  /// From config_json. Before a model is made the number of labels, their names and the kind of problem may be replaced
  /// by a task's: load_weights compares them with the file's.
  ModelConfig config;
};

/// Reads config.json. Throws ModelError when it is malformed, and as require_model_folder where the folder is none that
/// load_weights reads.
ModelDirectory open_model_directory(const std::filesystem::path& path);

struct LoadReport {
  std::vector<std::string> initialized;  ///< parameters that the file lacks and that were made anew
  /// Tensors of the file that the model has no place for, and shards beside a model.safetensors.
  std::vector<std::string> unused;
  HeadMatch head;  ///< the file's head beside the model's; not usable: a new one was made
  /// Where the head comes from: "the file's", "new: ...", or "in the task's order: ..." when its outputs changed places.
  std::string head_text() const;
  /// "not used: ..."; empty where everything was used.
  std::string unused_text() const;
  /// One line for people; empty when everything was there and used as it was.
  std::string text() const;
};

/// Fills the model's weights from model.safetensors, or from the shards of model.safetensors.index.json. Names may lack the
/// prefix "bert." or "roberta.", may have those of wrappers (ModelWeights::spelled), and LayerNorm may be called gamma and
/// beta; F64, F32, F16 and BF16 are converted. A missing pooler or classifier is initialised with `seed`, as is the
/// classifier where the file's outputs are others than the model's; outputs in another order are put in the model's.
/// Throws ModelError or IoError naming the file and tensor: one that is missing or there twice, has another shape than
/// config.json says, is not of a floating-point type, or holds NaN or Inf, and a head with another number of outputs or
/// more layers than config.json says. The weights are unspecified then.
template <class T, class Backend>
LoadReport load_weights(const ModelDirectory& directory, EncoderModel<T, Backend>& model, std::uint64_t seed);

/// Names of the files that save_model may write.
std::span<const char* const> saved_file_names();

/// Writes a directory that transformers' BertForSequenceClassification or RobertaForSequenceClassification and the tokenizer load: model.safetensors (of
/// F32, BF16 or F16), config.json, and copies of the tokenizer's files of `source`; LoRA's adapters are merged. Each file is written aside and renamed, the weights
/// last. Throws ModelError or IoError.
template <class T, class Backend>
void save_model(const std::filesystem::path& path, const ModelDirectory& source,
                const EncoderModel<T, Backend>& model, io::DType dtype = io::DType::f32);

}  // namespace sparsegrad::finetune
