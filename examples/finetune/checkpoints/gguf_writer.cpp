#include "checkpoints/gguf_writer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/low_precision.hpp>
#include <sparsegrad/io/file_bytes.hpp>
#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::finetune {

namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are written as numbers lie in memory");

constexpr std::uint32_t version = 3;
constexpr std::size_t alignment = 32;
// Numbers of GGUF's value types, and ggml's of its element types.
constexpr std::uint32_t value_uint32 = 4, value_float32 = 6, value_string = 8;
constexpr std::uint32_t element_f32 = 0, element_f16 = 1, element_bf16 = 30;

template <class X>
void append(std::string& bytes, X x) {
  char raw[sizeof x];
  std::memcpy(raw, &x, sizeof x);
  bytes.append(raw, sizeof x);
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, static_cast<std::uint64_t>(text.size()));
  bytes += text;
}

template <class To>
std::vector<std::byte> stored(std::span<const float> values) {
  const std::vector<To> converted(values.begin(), values.end());
  const auto bytes = std::as_bytes(std::span<const To>(converted));
  return {bytes.begin(), bytes.end()};
}

std::size_t padded(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

void GgufWriter::key(std::string_view name, std::uint32_t type) {
  if (std::find(keys_.begin(), keys_.end(), name) != keys_.end())
    throw ValueError("metadata '" + std::string(name) + "' stands already, expected each key once");
  keys_.emplace_back(name);
  append_text(entries_, name);
  append(entries_, type);
}

void GgufWriter::text(std::string_view name, std::string_view value) {
  key(name, value_string);
  append_text(entries_, value);
}

void GgufWriter::integer(std::string_view name, std::uint32_t value) {
  key(name, value_uint32);
  append(entries_, value);
}

void GgufWriter::real(std::string_view name, float value) {
  key(name, value_float32);
  append(entries_, value);
}

void GgufWriter::tensor(std::string_view name, const std::vector<index_t>& shape,
                        std::span<const float> values, io::DType type) {
  index_t count = 1;
  for (const index_t extent : shape)
    count *= extent;
  const std::string cited = "tensor '" + std::string(name) + "'";
  if (count != static_cast<index_t>(values.size())) {
    throw ShapeError(cited + " has " + std::to_string(values.size()) + " values, expected " +
                     std::to_string(count) + " of shape " + io::shape_list_text(shape));
  }
  if (std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; }))
    throw ValueError(cited + " stands already, expected each name once");
  Tensor tensor{std::string(name), shape, element_f32, {}};
  if (type == io::DType::f32) {
    tensor.bytes = stored<float>(values);
  } else if (type == io::DType::f16) {
    tensor.type = element_f16;
    tensor.bytes = stored<float16>(values);
  } else if (type == io::DType::bf16) {
    tensor.type = element_bf16;
    tensor.bytes = stored<bfloat16>(values);
  } else {
    throw ValueError(cited + ": expected the type F32, F16 or BF16");
  }
  tensors_.push_back(std::move(tensor));
}

void GgufWriter::write(const std::filesystem::path& file) const {
  std::string head = "GGUF";
  append(head, version);
  append(head, static_cast<std::uint64_t>(tensors_.size()));
  append(head, static_cast<std::uint64_t>(keys_.size()));
  head += entries_;
  std::size_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    append_text(head, tensor.name);
    append(head, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      append(head, static_cast<std::uint64_t>(*extent));
    append(head, tensor.type);
    append(head, static_cast<std::uint64_t>(offset));
    offset += padded(tensor.bytes.size());
  }
  head.resize(padded(head.size()), '\0');
  static constexpr std::byte zeros[alignment] = {};
  std::vector<std::span<const std::byte>> parts{std::as_bytes(std::span<const char>(head))};
  for (const Tensor& tensor : tensors_) {
    parts.emplace_back(tensor.bytes);
    parts.emplace_back(zeros, padded(tensor.bytes.size()) - tensor.bytes.size());
  }
  io::write_file(file.string(), parts);
}

}  // namespace sparsegrad::finetune
