#include "checkpoints/gguf_file.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <sparsegrad/io/safetensors.hpp>

#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
namespace {

constexpr std::size_t head_bytes = 24;      // magic, version, two counts
constexpr std::uint64_t least_entry = 13;   // bytes: key's length, type, a value of one byte
constexpr std::uint64_t least_tensor = 24;  // bytes: name's length, number of extents, type, offset
constexpr std::uint32_t most_extents = 4;   // GGML_MAX_DIMS
constexpr std::size_t default_alignment = 32;
constexpr std::size_t largest_alignment = std::size_t{1} << 30;
const char* const alignment_key = "general.alignment";

// Types of metadata.
enum : std::uint32_t { type_bool = 7, type_string = 8, type_array = 9 };
struct ValueType {
  std::string_view name;
  std::size_t bytes;  ///< 0: no fixed size
};
constexpr std::array<ValueType, 13> value_types{{{"uint8", 1},
                                                 {"int8", 1},
                                                 {"uint16", 2},
                                                 {"int16", 2},
                                                 {"uint32", 4},
                                                 {"int32", 4},
                                                 {"float32", 4},
                                                 {"bool", 1},
                                                 {"string", 0},
                                                 {"array", 0},
                                                 {"uint64", 8},
                                                 {"int64", 8},
                                                 {"float64", 8}}};

std::string known_value_types() {
  std::string text;
  for (std::size_t i = 0; i < value_types.size(); ++i)
    text += (i > 0 ? ", " : "") + std::string(value_types[i].name) + " (" + std::to_string(i) + ")";
  return text;
}

std::string cited(std::string_view text) {
  std::size_t end = std::min<std::size_t>(text.size(), 200);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    --end;  // not within a character
  return "'" + std::string(text.substr(0, end)) + (end < text.size() ? "...'" : "'");
}

template <class X>
X value_at(const std::byte* p) {
  X value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

/// Calls f with the value of this type at `p`, which is neither a string nor an array.
template <class F>
auto with_value(std::uint32_t type, const std::byte* p, F f) {
  switch (type) {
    case 0:
      return f(value_at<std::uint8_t>(p));
    case 1:
      return f(value_at<std::int8_t>(p));
    case 2:
      return f(value_at<std::uint16_t>(p));
    case 3:
      return f(value_at<std::int16_t>(p));
    case 4:
      return f(value_at<std::uint32_t>(p));
    case 5:
      return f(value_at<std::int32_t>(p));
    case 6:
      return f(value_at<float>(p));
    case 10:
      return f(value_at<std::uint64_t>(p));
    case 11:
      return f(value_at<std::int64_t>(p));
    case 12:
      return f(value_at<double>(p));
    default:
      return f(value_at<std::uint8_t>(p) != 0);
  }
}

template <class T>
struct ElementOf {
  using type = T;
};
template <class T>
struct ElementOf<std::vector<T>> {
  using type = T;
};

template <class T>
const char* expected_name() {
  if constexpr (std::is_same_v<T, std::int64_t>) return "an integer in [-2^63, 2^63)";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, bool>) return "a bool";
  return "a string";
}

/// Whether a file's type is one that T takes.
template <class T>
bool takes(std::uint32_t type) {
  const bool text = type == type_string;
  const bool truth = type == type_bool;
  const bool real = type == 6 || type == 12;
  if constexpr (std::is_same_v<T, std::string_view>) return text;
  if constexpr (std::is_same_v<T, bool>) return truth;
  if constexpr (std::is_same_v<T, double>) return !text && !truth;
  return !text && !truth && !real;
}

}  // namespace

index_t GgufTensor::rows() const {
  index_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i)
    rows *= shape[i];
  return rows;
}

/// Reads the parts of the head one after the other, none beyond the file's end.
class GgufFile::Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file), bytes_(file.file_.bytes()) {}

  std::size_t position() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }

  template <class X>
  X number(const std::string& what) {
    X value;
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    return value;
  }
  std::string_view text(const std::string& what) {
    const auto length = number<std::uint64_t>("the length of " + what);
    if (length > left()) {
      throw file_.error("the length of " + what + " is " + std::to_string(length) + " at byte " +
                        std::to_string(at_ - sizeof length) + ", but only " + std::to_string(left()) +
                        " bytes follow (file truncated?)");
    }
    const std::byte* p = take(static_cast<std::size_t>(length), what);
    const std::string_view text(reinterpret_cast<const char*>(p), static_cast<std::size_t>(length));
    if (const auto invalid = find_invalid_utf8(text)) {
      throw file_.error(what + " is not UTF-8: its byte " + std::to_string(*invalid) + " of " +
                        std::to_string(text.size()) + " begins no well-formed character");
    }
    return text;
  }
  const std::byte* take(std::size_t size, const std::string& what) {
    if (size > left()) {
      throw file_.error("ends at byte " + std::to_string(bytes_.size()) + ", within " + what +
                        " (file truncated?)");
    }
    const std::byte* p = bytes_.data() + at_;
    at_ += size;
    return p;
  }

 private:
  const GgufFile& file_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

GgufFile::GgufFile(const std::string& path) : GgufFile(io::FileBytes::open(path), path) {}

GgufFile::GgufFile(io::FileBytes bytes, std::string name) : file_(std::move(bytes)), path_(std::move(name)) {
  const std::string_view all(reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size());
  if (!all.starts_with("GGUF")) {
    if (all.empty()) throw error("is empty, expected a GGUF file");
    if (all.starts_with("version https://git-lfs.github.com/spec/")) {
      throw error("is a pointer of Git LFS (" + std::to_string(all.size()) +
                  " bytes) in place of the file; fetch it with: git lfs pull");
    }
    for (const std::string_view old : {"lmgg", "fmgg", "tjgg", "algg"}) {
      if (all.starts_with(old))
        throw error("is of a format before GGUF (GGML), expected GGUF; convert it with llama.cpp's scripts");
    }
    constexpr std::string_view digits = "0123456789abcdef";
    std::string found;
    for (const char c : all.substr(0, 4)) {
      const auto byte = static_cast<unsigned char>(c);
      found += std::string(found.empty() ? "" : " ") + digits[byte / 16] + digits[byte % 16];
    }
    throw error("begins with the bytes " + found + ", expected 47 47 55 46 (\"GGUF\")");
  }
  if (all.size() < head_bytes) {
    throw error("has " + std::to_string(all.size()) + " bytes, expected at least " +
                std::to_string(head_bytes) + " (file truncated?)");
  }
  Reader reader(*this);
  reader.take(4, "the magic");
  version_ = reader.number<std::uint32_t>("the version");
  if (version_ != 0 && (version_ & 0xFFFFU) == 0) {
    throw error("is big-endian, expected little-endian; convert it with: gguf-convert-endian " + path_ +
                " little");
  }
  if (version_ != 2 && version_ != 3) {
    throw error("has version " + std::to_string(version_) + " of GGUF, expected 2 or 3" +
                (version_ == 1 ? "; convert it with llama.cpp's scripts" : ""));
  }
  const auto tensor_count = reader.number<std::uint64_t>("the number of tensors");
  const auto entry_count = reader.number<std::uint64_t>("the number of metadata entries");
  const auto check_count = [&](std::uint64_t count, std::uint64_t least, const char* what) {
    if (count <= reader.left() / least) return;
    throw error("has " + std::to_string(count) + " " + what + ", which need at least " +
                std::to_string(least) + " bytes each, but only " + std::to_string(reader.left()) +
                " bytes follow (file truncated?)");
  };
  check_count(entry_count, least_entry, "metadata entries");
  check_count(tensor_count, least_tensor, "tensors");
  read_entries(reader, entry_count);
  read_tensors(reader, tensor_count);
}

void GgufFile::read_entries(Reader& reader, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string_view key = reader.text("the key of metadata entry " + std::to_string(i + 1));
    const std::string where = "metadata " + cited(key);
    const std::size_t begin = reader.position();
    Entry entry = read_value(reader, where);
    entry.begin = begin;
    entry.end = reader.position();
    if (!entries_.emplace(std::string(key), entry).second) throw error(where + " stands twice");
  }
}

GgufFile::Entry GgufFile::read_value(Reader& reader, const std::string& where) const {
  Entry entry;
  const auto read_type = [&](const std::string& what) {
    entry.type = reader.number<std::uint32_t>("the type of " + where);
    if (entry.type < value_types.size()) return;
    throw error(where + " has " + what + " " + std::to_string(entry.type) + ", expected one of " +
                known_value_types());
  };
  read_type("the type");
  if (entry.type == type_array) {
    entry.is_array = true;
    read_type("elements of type");
    if (entry.type == type_array) throw error(where + " is an array of arrays, expected one of values");
    entry.count = reader.number<std::uint64_t>("the length of " + where);
    const std::size_t least = entry.type == type_string ? 8 : value_types[entry.type].bytes;
    if (entry.count > reader.left() / least) {
      throw error(where + " is an array of " + std::to_string(entry.count) + " elements of " +
                  std::string(value_types[entry.type].name) + ", but only " + std::to_string(reader.left()) +
                  " bytes follow (file truncated?)");
    }
  }
  entry.offset = reader.position();
  if (entry.type == type_string) {
    for (std::uint64_t i = 0; i < entry.count; ++i)
      reader.text(entry.is_array ? "element " + std::to_string(i) + " of " + where : where);
    return entry;
  }
  const auto size = static_cast<std::size_t>(entry.count) * value_types[entry.type].bytes;
  const std::byte* values = reader.take(size, where);
  if (entry.type == type_bool) {
    const auto* wrong = std::find_if(values, values + size,
                                     [](std::byte b) { return b != std::byte{0} && b != std::byte{1}; });
    if (wrong != values + size) {
      throw error(where + " is a bool of value " + std::to_string(std::to_integer<int>(*wrong)) +
                  ", expected 0 or 1");
    }
  }
  return entry;
}

std::size_t GgufFile::read_alignment() const {
  const auto found = entries_.find(alignment_key);
  if (found == entries_.end()) return default_alignment;
  const Entry& entry = found->second;
  if (entry.type != 4 || entry.is_array) throw wrong_type(alignment_key, entry, "uint32");
  const auto alignment = static_cast<std::size_t>(at<std::int64_t>(alignment_key));
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > largest_alignment) {
    throw error("metadata '" + std::string(alignment_key) + "' is " + std::to_string(alignment) +
                ", expected a power of two up to 2^30");
  }
  return alignment;
}

void GgufFile::read_tensors(Reader& reader, std::uint64_t count) {
  const std::size_t alignment = read_alignment();
  std::vector<std::uint64_t> offsets;
  std::vector<std::size_t> sizes;
  for (std::uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor;
    tensor.name = reader.text("the name of tensor " + std::to_string(i + 1));
    const std::string where = "tensor " + cited(tensor.name);
    const auto extents = reader.number<std::uint32_t>("the number of extents of " + where);
    if (extents > most_extents) {
      throw error(where + " has " + std::to_string(extents) + " extents, expected at most " +
                  std::to_string(most_extents));
    }
    // A product below 2^59 keeps the bytes of every type below 2^63.
    constexpr std::uint64_t limit = std::uint64_t{1} << 59U;
    std::uint64_t elements = 1;
    for (std::uint32_t k = 0; k < extents; ++k) {
      const auto extent = reader.number<std::uint64_t>("the extents of " + where);
      if (extent == 0 || extent > limit / elements) {
        throw error(where + " has the extent " + std::to_string(extent) +
                    ", expected extents from 1 on whose product is at most 2^59");
      }
      elements *= extent;
      tensor.shape.insert(tensor.shape.begin(), static_cast<index_t>(extent));
    }
    const auto id = reader.number<std::uint32_t>("the type of " + where);
    tensor.type = find_gguf_type(id);
    if (tensor.type == nullptr) {
      std::string known;
      for (const GgufType& type : gguf_types())
        known += (known.empty() ? "" : ", ") + std::string(type.name) + " (" + std::to_string(type.id) + ")";
      throw error(where + " has the type " + std::to_string(id) + ", expected one of " + known);
    }
    if (tensor.cols() % tensor.type->block != 0) {
      throw error(where + " of type " + std::string(tensor.type->name) + " has rows of " +
                  std::to_string(tensor.cols()) + " elements, expected a multiple of " +
                  std::to_string(tensor.type->block));
    }
    offsets.push_back(reader.number<std::uint64_t>("the offset of " + where));
    if (offsets.back() % alignment != 0) {
      throw error(where + " begins at byte " + std::to_string(offsets.back()) +
                  " of the data, expected a multiple of the alignment " + std::to_string(alignment));
    }
    sizes.push_back(static_cast<std::size_t>(tensor.count() / tensor.type->block * tensor.type->block_bytes));
    if (!index_.emplace(tensor.name, tensors_.size()).second) throw error(where + " stands twice");
    tensors_.push_back(std::move(tensor));
  }
  if (tensors_.empty()) return;
  const std::size_t begin = (reader.position() + alignment - 1) / alignment * alignment;
  const std::size_t data = file_.bytes().size() > begin ? file_.bytes().size() - begin : 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (offsets[i] > data || sizes[i] > data - offsets[i]) {
      throw error("tensor " + cited(tensors_[i].name) + " has " + std::to_string(sizes[i]) +
                  " bytes from byte " + std::to_string(offsets[i]) + " of the data on, but the file has " +
                  std::to_string(data) + " bytes of data (file truncated?)");
    }
    tensors_[i].bytes = file_.bytes().subspan(begin + static_cast<std::size_t>(offsets[i]), sizes[i]);
  }
  check_overlap();
}

void GgufFile::check_overlap() const {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : tensors_)
    order.push_back(&tensor);
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->bytes.data() < b->bytes.data(); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& earlier = *order[i - 1];
    if (earlier.bytes.data() + earlier.bytes.size() <= order[i]->bytes.data()) continue;
    throw error("tensor " + cited(order[i]->name) + " overlaps tensor " + cited(earlier.name) + ", whose " +
                std::to_string(earlier.bytes.size()) + " bytes end after its begin");
  }
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, entry] : entries_)
    keys.push_back(key);
  return keys;
}

const GgufFile::Entry* GgufFile::find(std::string_view key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

IoError GgufFile::missing(std::string_view key) const {
  return error("metadata " + cited(key) + " is missing (the file has " + std::to_string(entries_.size()) +
               " others)");
}

IoError GgufFile::wrong_type(std::string_view key, const Entry& entry, const std::string& expected) const {
  return error("metadata " + cited(key) + " is " + (entry.is_array ? "an array of " : "of type ") +
               std::string(value_types[entry.type].name) + ", expected " + expected);
}

template <class T>
std::optional<std::vector<T>> GgufFile::elements(std::string_view key, bool is_array) const {
  const Entry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto refuse = [&] {
    return wrong_type(key, *entry,
                      (is_array ? "an array, each element " : "") + std::string(expected_name<T>()));
  };
  if (entry->is_array != is_array || !takes<T>(entry->type)) throw refuse();
  std::vector<T> values;
  values.reserve(static_cast<std::size_t>(entry->count));
  const std::byte* p = file_.bytes().data() + entry->offset;
  for (std::uint64_t i = 0; i < entry->count; ++i) {
    if constexpr (std::is_same_v<T, std::string_view>) {
      const auto length = static_cast<std::size_t>(value_at<std::uint64_t>(p));
      values.emplace_back(reinterpret_cast<const char*>(p) + sizeof(std::uint64_t), length);
      p += sizeof(std::uint64_t) + length;
    } else {
      values.push_back(with_value(entry->type, p, [&](auto value) {
        if constexpr (std::is_same_v<T, std::int64_t> && std::is_same_v<decltype(value), std::uint64_t>) {
          if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
            throw error("metadata " + cited(key) + " is " + std::to_string(value) + ", expected " +
                        expected_name<T>());
          }
        }
        return static_cast<T>(value);
      }));
      p += value_types[entry->type].bytes;
    }
  }
  return values;
}

template <class T>
std::optional<T> GgufFile::get(std::string_view key) const {
  using Element = typename ElementOf<T>::type;
  constexpr bool is_array = !std::is_same_v<T, Element>;
  std::optional<std::vector<Element>> values = elements<Element>(key, is_array);
  if constexpr (is_array) {
    return values;
  } else {
    if (!values) return std::nullopt;
    return T(values->front());
  }
}

template std::optional<std::int64_t> GgufFile::get(std::string_view) const;
template std::optional<double> GgufFile::get(std::string_view) const;
template std::optional<bool> GgufFile::get(std::string_view) const;
template std::optional<std::string_view> GgufFile::get(std::string_view) const;
template std::optional<std::vector<std::int64_t>> GgufFile::get(std::string_view) const;
template std::optional<std::vector<double>> GgufFile::get(std::string_view) const;
template std::optional<std::vector<bool>> GgufFile::get(std::string_view) const;
template std::optional<std::vector<std::string_view>> GgufFile::get(std::string_view) const;

std::span<const std::byte> GgufFile::value_bytes(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr) throw missing(key);
  return file_.bytes().subspan(entry->begin, entry->end - entry->begin);
}

std::string GgufFile::text_of(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr) throw missing(key);
  constexpr std::uint64_t most = 8;
  std::string text;
  const std::byte* p = file_.bytes().data() + entry->offset;
  for (std::uint64_t i = 0; i < std::min(entry->count, most); ++i) {
    text += i > 0 ? ", " : "";
    if (entry->type == type_string) {
      const auto length = static_cast<std::size_t>(value_at<std::uint64_t>(p));
      text += cited({reinterpret_cast<const char*>(p) + sizeof(std::uint64_t), length});
      p += sizeof(std::uint64_t) + length;
    } else {
      text += with_value(entry->type, p, [](auto value) {
        if constexpr (std::is_same_v<decltype(value), bool>) {
          return std::string(value ? "true" : "false");
        } else if constexpr (std::is_floating_point_v<decltype(value)>) {
          char text_of_number[32];
          std::snprintf(text_of_number, sizeof text_of_number, "%.7g", static_cast<double>(value));
          return std::string(text_of_number);
        } else {
          return std::to_string(value);
        }
      });
      p += value_types[entry->type].bytes;
    }
  }
  if (!entry->is_array) return text;
  return std::string(value_types[entry->type].name) + "[" + std::to_string(entry->count) + "]: " + text +
         (entry->count > most ? ", ..." : "");
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return tensors_[found->second];
  throw error("tensor " + cited(name) + " is missing (the file has " + std::to_string(tensors_.size()) +
              " others)");
}

const GgufTensor& GgufFile::tensor(std::string_view name, std::span<const index_t> shape) const {
  const GgufTensor& found = tensor(name);
  if (std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end())) return found;
  throw error("tensor " + cited(name) + " has shape " + io::shape_list_text(found.shape) + ", expected " +
              io::shape_list_text(shape));
}

void GgufFile::require_whole(const GgufTensor& tensor) const {
  if (tensor.bytes.empty()) return;
  std::byte last;
  file_.copy(static_cast<std::size_t>(&tensor.bytes.back() - file_.bytes().data()), {&last, 1});
}

std::vector<std::byte> GgufFile::blocks(const GgufTensor& tensor) const {
  std::vector<std::byte> blocks(tensor.bytes.size());
  file_.copy(static_cast<std::size_t>(tensor.bytes.data() - file_.bytes().data()), blocks);
  return blocks;
}

void GgufFile::dequantize(const GgufTensor& tensor, index_t first, index_t last,
                          std::span<float> values) const {
  const GgufType& type = *tensor.type;
  const index_t cols = tensor.cols();
  if (first < 0 || first > last || last > tensor.rows() ||
      static_cast<index_t>(values.size()) != (last - first) * cols) {
    throw ShapeError("rows " + std::to_string(first) + " to " + std::to_string(last) + " of tensor " +
                     cited(tensor.name) + " of shape " + io::shape_list_text(tensor.shape) + " into " +
                     std::to_string(values.size()) + " values");
  }
  if (!type.readable) {
    throw error("tensor " + cited(tensor.name) + " has the type " + std::string(type.name) +
                ", expected one of " + readable_gguf_types());
  }
  // By way of a copy: a file that has become shorter is told, not a fault of memory.
  constexpr index_t at_once = index_t{1} << 14;
  const auto start = static_cast<std::size_t>(tensor.bytes.data() - file_.bytes().data());
  std::vector<std::byte> blocks;
  index_t block = first * cols / type.block;
  for (std::size_t done = 0; done < values.size();) {
    const auto part = std::min(values.size() - done, static_cast<std::size_t>(at_once));
    const auto count = static_cast<index_t>(part) / type.block;
    blocks.resize(static_cast<std::size_t>(count * type.block_bytes));
    file_.copy(start + static_cast<std::size_t>(block * type.block_bytes), blocks);
    dequantize_blocks(type, blocks, values.subspan(done, part));
    block += count;
    done += part;
  }
}

}  // namespace sparsegrad::finetune
