#pragma once

#include <filesystem>

namespace sparsegrad::finetune {

/// Names of the files of a model folder.
inline constexpr const char* weights_file = "model.safetensors";
inline constexpr const char* shards_file = "model.safetensors.index.json";
inline constexpr const char* config_file = "config.json";

/// Throws ModelError unless `path` is a folder with config.json and weights in safetensors files, in
/// one or in shards. The text says what is there instead (a file, weights in another format, an
/// adapter, a cache of the Hub, a model in a subfolder, an unfinished download) and the way out.
void require_model_folder(const std::filesystem::path& path);

/// Throws ModelError when the file is none of weights or text but what a failed download or copy
/// leaves: a pointer of Git LFS, a web page, nothing. `weights`: other formats are told as well.
void require_content(const std::filesystem::path& file, bool weights);

}  // namespace sparsegrad::finetune
