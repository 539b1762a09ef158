// A decoder's Hugging Face folder: config.json, model.safetensors (or its shards) and the tokenizer's files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "checkpoints/model_weights.hpp"
#include "models/decoder/decoder_model.hpp"

namespace sparsegrad::finetune {

/// A folder with its configuration. Of a model that comes from elsewhere, a GGUF file, `path` and `config_json` are empty.
struct DecoderFolder {
  std::filesystem::path path;
  nlohmann::json config_json = nlohmann::json::object();
  DecoderConfig config;
};

/// Reads config.json. Throws ModelError when it is malformed or of a model that the engine does not have, and where the
/// folder is none with safetensors files.
DecoderFolder open_decoder_folder(const std::filesystem::path& path);

/// The name in the files of a parameter, which may have the wrappers of `load_weights`. Throws ModelError where there is
/// none, or where there are several.
std::string decoder_tensor(const ModelWeights& weights, const std::string& parameter);

struct DecoderLoadReport {
  std::vector<std::string> unused;  ///< tensors that the model has no place for
  /// "not used: ..."; empty where everything was used.
  std::string text() const;
};

/// Fills the model's weights, but for packed ones (folder_packed), which are looked through, from model.safetensors, or from
/// the shards of model.safetensors.index.json; adapters are initialised with `seed`. Names may lack "model." in front and may have those of wrappers; F64, F32, F16 and BF16 are
/// converted. Throws ModelError or IoError naming the file and tensor: one that is missing or there twice, has another
/// shape than config.json says, is not of a floating-point type, holds NaN or Inf, or is of a block and has no place in
/// it. The weights are unspecified then.
template <class T, class Backend>
DecoderLoadReport load_weights(const DecoderFolder& folder, DecoderModel<T, Backend>& model,
                               std::uint64_t seed);

/// Writes a folder that transformers' AutoModelForCausalLM loads: model.safetensors (of F32, BF16 or F16), config.json,
/// and copies of the tokenizer's files of `source` where it has a path; LoRA's adapters are merged. Each file is written
/// aside and renamed, the weights last. Throws ModelError or IoError.
template <class T, class Backend>
void save_decoder(const std::filesystem::path& path, const DecoderFolder& source,
                  const DecoderModel<T, Backend>& model, io::DType dtype = io::DType::f32);

/// Names of the files that save_decoder may write.
std::vector<std::string> decoder_file_names();

}  // namespace sparsegrad::finetune
