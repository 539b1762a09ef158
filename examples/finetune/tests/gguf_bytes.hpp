// GGUF files written part by part, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/gguf_file.hpp"

namespace sparsegrad::finetune::test {

/// Bytes of a GGUF file, part by part.
struct GgufBytes {
  std::string text;
  template <class X>
  GgufBytes& number(X x) {
    char bytes[sizeof x];
    std::memcpy(bytes, &x, sizeof x);
    text.append(bytes, sizeof x);
    return *this;
  }
  GgufBytes& u32(std::uint32_t x) { return number(x); }
  GgufBytes& u64(std::uint64_t x) { return number(x); }
  GgufBytes& string(std::string_view s) {
    u64(s.size());
    text += s;
    return *this;
  }
  GgufBytes& head(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
    text += "GGUF";
    return u32(version).u64(tensors).u64(entries);
  }
  GgufBytes& tensor(std::string_view name, std::vector<std::uint64_t> extents, std::uint32_t type,
                    std::uint64_t offset) {
    string(name).u32(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents)
      u64(extent);
    return u32(type).u64(offset);
  }
  GgufBytes& pad(std::size_t alignment) {
    text.resize((text.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  GgufBytes& zeros(std::size_t count) {
    text.append(count, '\0');
    return *this;
  }
};

/// The file of these bytes, named x.gguf.
inline GgufFile gguf_from(const std::string& text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return GgufFile(io::FileBytes::from({p, p + text.size()}), "x.gguf");
}

/// A model's file of metadata and of tensors of zeros, both by name.
class GgufModel {
 public:
  /// A value with its type. The last one of a key counts.
  GgufModel& entry(std::string_view key, const GgufBytes& bytes) {
    for (auto& [known, old] : entries_) {
      if (known != key) continue;
      old = bytes.text;
      return *this;
    }
    entries_.emplace_back(key, bytes.text);
    return *this;
  }
  GgufModel& text(std::string_view key, std::string_view value) {
    return entry(key, GgufBytes().u32(8).string(value));
  }
  GgufModel& number(std::string_view key, std::uint32_t value) {
    return entry(key, GgufBytes().u32(4).u32(value));
  }
  GgufModel& real(std::string_view key, float value) { return entry(key, GgufBytes().u32(6).number(value)); }
  GgufModel& truth(std::string_view key, bool value) {
    return entry(key, GgufBytes().u32(7).number<std::uint8_t>(value ? 1 : 0));
  }
  GgufModel& texts(std::string_view key, const std::vector<std::string>& values) {
    GgufBytes bytes;
    bytes.u32(9).u32(8).u64(values.size());
    for (const std::string& value : values)
      bytes.string(value);
    return entry(key, bytes);
  }
  GgufModel& numbers(std::string_view key, const std::vector<std::int32_t>& values) {
    GgufBytes bytes;
    bytes.u32(9).u32(5).u64(values.size());
    for (const std::int32_t value : values)
      bytes.number(value);
    return entry(key, bytes);
  }
  /// F32; the extents are the fastest first.
  GgufModel& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, float value = 0) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : extents)
      count *= extent;
    infos_.tensor(name, extents, 0, data_.text.size());
    for (std::uint64_t i = 0; i < count; ++i)
      data_.number(value);
    data_.pad(32);
    ++tensors_;
    return *this;
  }
  /// Of the type of this number, with these bytes.
  GgufModel& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                    const std::string& bytes) {
    infos_.tensor(name, extents, type, data_.text.size());
    data_.text += bytes;
    data_.pad(32);
    ++tensors_;
    return *this;
  }
  std::string bytes() const {
    GgufBytes all;
    all.head(tensors_, entries_.size());
    for (const auto& [key, value] : entries_)
      all.string(key).text += value;
    all.text += infos_.text;
    all.pad(32).text += data_.text;
    return all.text;
  }
  GgufFile file() const { return gguf_from(bytes()); }

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
  GgufBytes infos_, data_;
  std::uint64_t tensors_ = 0;
};

}  // namespace sparsegrad::finetune::test
