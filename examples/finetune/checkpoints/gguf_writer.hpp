#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "checkpoints/gguf_blocks.hpp"

// In short:
//   GgufWriter writer;
//   writer.text("general.architecture", "llama");
//   writer.real("adapter.lora.alpha", 16);
//   writer.tensor("blk.0.ffn_up.weight.lora_a", {rank, in}, values, io::DType::f32);
//   writer.write("adapter.gguf");

namespace sparsegrad::finetune {

/// Writes GGUF files of version 3, little-endian; GgufFile reads them.
class GgufWriter {
 public:
  /// A key of the metadata, each once, with a string, a uint32, a float32 or a bool, or an array of strings, float32 or
  /// int32. Throws ValueError where it stands already.
  void text(std::string_view key, std::string_view value);
  void integer(std::string_view key, std::uint32_t value);
  void real(std::string_view key, float value);
  void truth(std::string_view key, bool value);
  void texts(std::string_view key, std::span<const std::string> values);
  void reals(std::string_view key, std::span<const float> values);
  void integers(std::string_view key, std::span<const std::int32_t> values);
  /// A value as another file has it: GgufFile::value_bytes.
  void value(std::string_view key, std::span<const std::byte> bytes);

  /// A tensor as F32, F16, BF16 or Q8_0 (quantize_blocks), its values copied. `shape`: the slowest extent first, as
  /// Hugging Face has it. Throws ShapeError where values and shape do not fit, ValueError naming the tensor for what
  /// quantize_blocks refuses and a name that stands already.
  void tensor(std::string_view name, const std::vector<index_t>& shape, std::span<const float> values,
              const GgufType& type);
  /// The same as F32, F16 or BF16.
  void tensor(std::string_view name, const std::vector<index_t>& shape, std::span<const float> values,
              io::DType type);
  /// A tensor whose blocks are there.
  void tensor(std::string_view name, const std::vector<index_t>& shape, const GgufType& type,
              std::vector<std::byte> blocks);
  /// Writes aside and renames. Throws IoError.
  void write(const std::filesystem::path& file) const;

 private:
  struct Tensor {
    std::string name;
    std::vector<index_t> shape;
    std::uint32_t type;
    std::vector<std::byte> bytes;
  };
  void key(std::string_view name);
  void key(std::string_view name, std::uint32_t type);
  void array(std::string_view name, std::uint32_t type, std::size_t count);

  std::vector<std::string> keys_;
  std::string entries_;
  std::vector<Tensor> tensors_;
};

}  // namespace sparsegrad::finetune
