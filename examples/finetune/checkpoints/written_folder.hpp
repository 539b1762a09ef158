// Writing a model folder.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::finetune {

/// Makes the folder unless it is there. Throws ModelError.
void make_model_folder(const std::filesystem::path& path);

/// Copies those of the files that `from` has; nothing where both are one folder. Each is written aside and renamed.
/// Throws IoError.
void copy_files(const std::filesystem::path& from, const std::filesystem::path& to,
                std::span<const char* const> names);

/// Writes a file aside and renames it. Throws IoError.
void write_text(const std::filesystem::path& file, const std::string& text);

/// Tensors of numbers in C, written as F32, BF16 or F16.
template <class C>
class TensorsToWrite {
 public:
  explicit TensorsToWrite(io::DType dtype) : dtype_(dtype) { writer_.metadata("format", "pt"); }

  void add(const std::string& name, const std::vector<index_t>& shape, std::vector<C> values) {
    add_values(name, shape, std::span<const C>(values));
  }
  /// Of values that live until `write`: without a copy where they are stored as they are.
  void add_view(const std::string& name, const std::vector<index_t>& shape, std::span<const C> values) {
    if constexpr (std::is_same_v<C, float>) {
      if (dtype_ == io::DType::f32) return writer_.add(name, shape, values);
    }
    add_values(name, shape, values);
  }
  /// Throws IoError.
  void write(const std::filesystem::path& file) const { writer_.write(file.string()); }

 private:
  void add_values(const std::string& name, const std::vector<index_t>& shape, std::span<const C> x) {
    if (dtype_ == io::DType::bf16) {
      writer_.add(name, shape, std::vector<bfloat16>(x.begin(), x.end()));
    } else if (dtype_ == io::DType::f16) {
      writer_.add(name, shape, std::vector<float16>(x.begin(), x.end()));
    } else {
      writer_.add(name, shape, std::vector<float>(x.begin(), x.end()));
    }
  }

  io::DType dtype_;
  io::SafetensorsWriter writer_;
};

}  // namespace sparsegrad::finetune
