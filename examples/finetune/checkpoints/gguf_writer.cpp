#include "checkpoints/gguf_writer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/io/file_bytes.hpp>
#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::finetune {

namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are written as numbers lie in memory");

constexpr std::uint32_t version = 3;
constexpr std::size_t alignment = 32;
// Numbers of GGUF's value types.
constexpr std::uint32_t value_uint32 = 4, value_int32 = 5, value_float32 = 6, value_bool = 7,
                        value_string = 8, value_array = 9;

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

std::string cited(std::string_view tensor) {
  return "tensor '" + std::string(tensor) + "'";
}

index_t count_of(const std::vector<index_t>& shape) {
  index_t count = 1;
  for (const index_t extent : shape)
    count *= extent;
  return count;
}

std::size_t padded(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

void GgufWriter::key(std::string_view name) {
  if (std::find(keys_.begin(), keys_.end(), name) != keys_.end())
    throw ValueError("metadata '" + std::string(name) + "' stands already, expected each key once");
  keys_.emplace_back(name);
  append_text(entries_, name);
}

void GgufWriter::key(std::string_view name, std::uint32_t type) {
  key(name);
  append(entries_, type);
}

void GgufWriter::array(std::string_view name, std::uint32_t type, std::size_t count) {
  key(name, value_array);
  append(entries_, type);
  append(entries_, static_cast<std::uint64_t>(count));
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

void GgufWriter::truth(std::string_view name, bool value) {
  key(name, value_bool);
  append(entries_, static_cast<std::uint8_t>(value ? 1 : 0));
}

void GgufWriter::texts(std::string_view name, std::span<const std::string> values) {
  array(name, value_string, values.size());
  for (const std::string& value : values)
    append_text(entries_, value);
}

void GgufWriter::reals(std::string_view name, std::span<const float> values) {
  array(name, value_float32, values.size());
  for (const float value : values)
    append(entries_, value);
}

void GgufWriter::integers(std::string_view name, std::span<const std::int32_t> values) {
  array(name, value_int32, values.size());
  for (const std::int32_t value : values)
    append(entries_, value);
}

void GgufWriter::value(std::string_view name, std::span<const std::byte> bytes) {
  key(name);
  entries_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void GgufWriter::tensor(std::string_view name, const std::vector<index_t>& shape,
                        std::span<const float> values, const GgufType& type) {
  const index_t count = count_of(shape);
  if (count != static_cast<index_t>(values.size())) {
    throw ShapeError(cited(name) + " has " + std::to_string(values.size()) + " values, expected " +
                     std::to_string(count) + " of shape " + io::shape_list_text(shape));
  }
  if (shape.empty() || shape.back() % type.block != 0) {
    throw ShapeError(cited(name) + " has the shape " + io::shape_list_text(shape) +
                     ", expected rows of whole blocks of " + std::to_string(type.block) + " for " +
                     std::string(type.name));
  }
  std::vector<std::byte> blocks(static_cast<std::size_t>(count / type.block * type.block_bytes));
  try {
    quantize_blocks(type, values, blocks);
  } catch (const ValueError& error) {
    throw ValueError(cited(name) + ": " + error.what());
  }
  tensor(name, shape, type, std::move(blocks));
}

void GgufWriter::tensor(std::string_view name, const std::vector<index_t>& shape,
                        std::span<const float> values, io::DType type) {
  const std::string_view known = type == io::DType::f32    ? "F32"
                                 : type == io::DType::f16  ? "F16"
                                 : type == io::DType::bf16 ? "BF16"
                                                           : "";
  if (known.empty()) throw ValueError(cited(name) + ": expected the type F32, F16 or BF16");
  tensor(name, shape, values, gguf_type(known));
}

void GgufWriter::tensor(std::string_view name, const std::vector<index_t>& shape, const GgufType& type,
                        std::vector<std::byte> blocks) {
  if (std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; }))
    throw ValueError(cited(name) + " stands already, expected each name once");
  const auto expected = static_cast<std::size_t>(count_of(shape) / type.block * type.block_bytes);
  if (blocks.size() != expected) {
    throw ShapeError(cited(name) + " has " + std::to_string(blocks.size()) + " bytes, expected " +
                     std::to_string(expected) + " of " + std::string(type.name) + " of shape " +
                     io::shape_list_text(shape));
  }
  tensors_.push_back({std::string(name), shape, type.id, std::move(blocks)});
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
