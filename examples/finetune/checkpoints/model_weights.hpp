#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::finetune {

/// A tensor's name without the wrappers of the module that saved it: ModelWeights::spelled.
std::string bare_name(std::string_view name);

/// The tensors of a model folder: those of model.safetensors or, where that is missing, of the shards that
/// model.safetensors.index.json maps their names to.
class ModelWeights {
 public:
  /// Opens the files. Throws ModelError or IoError naming file and tensor: a file that is missing or damaged, an index
  /// that names none, one outside the folder, or a tensor that its shard does not hold; adapters that are not merged.
  explicit ModelWeights(const std::filesystem::path& folder);

  /// The file that says which tensors there are, for messages.
  const std::string& path() const { return path_; }
  /// Whether there is an index of shards too, which is not read.
  bool has_unread_index() const { return has_unread_index_; }
  /// Names in the files.
  std::vector<std::string> names() const;
  /// The file's names for a parameter's name, without what wrappers put into it: "module." (DataParallel), "_orig_mod."
  /// (torch.compile) and the like anywhere, "model." and "base_model." in front.
  std::span<const std::string> spelled(std::string_view bare) const;
  /// A tensor by its name in the files. Throws IoError as SafetensorsFile::find.
  io::Tensor find(std::string_view name) const { return file_of(name).find(name); }
  io::Tensor find(std::string_view name, std::span<const index_t> shape) const {
    return file_of(name).find(name, shape);
  }
  /// Its elements as SafetensorsFile::read_as has them. Throws ModelError where one is NaN or Inf.
  template <class T>
  std::vector<T> read_as(std::string_view name) const {
    std::vector<T> values = file_of(name).template read_as<T>(name);
    require_finite(name, std::span<const T>(values));
    return values;
  }
  /// Throws IoError where the tensor's file has become too short since it was opened.
  void require_whole(const io::Tensor& tensor) const { file_of(tensor.name).require_whole(tensor); }
  /// Throws ModelError where one of a tensor's elements, from number `first` on, is NaN or Inf.
  void require_finite(std::string_view name, std::span<const float> values, index_t first = 0) const;
  void require_finite(std::string_view name, std::span<const double> values, index_t first = 0) const;
  /// Which shard holds a tensor of this bare name that the index does not list: "; ..."; empty where none does.
  std::string unlisted(std::string_view name) const;

 private:
  const io::SafetensorsFile& file_of(std::string_view name) const;
  void open_shards(const std::filesystem::path& folder);

  std::string path_;
  bool has_unread_index_ = false;
  std::vector<io::SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_;               ///< by name in the files
  std::map<std::string, std::vector<std::string>, std::less<>> bare_;  ///< their names by the bare one
};

}  // namespace sparsegrad::finetune
