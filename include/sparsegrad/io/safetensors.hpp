// Safetensors files: named arrays behind a JSON header (github.com/huggingface/safetensors,
// "Format").
//
//     8 bytes   n, length of the header, unsigned, little-endian
//     n bytes   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
//                "__metadata__": {"key": "text", ...}}
//     the rest  the arrays' bytes, row-major; offsets count from its start
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "dtype.hpp"
#include "file_bytes.hpp"
#include "safetensors_header.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

/// A shape as text: "[2, 3]".
inline std::string shape_list_text(std::span<const index_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/// One array of an open file.
struct Tensor {
  std::string_view name;             ///< as in the file, which it refers to
  DType dtype = DType::f32;          ///< type of an element
  std::vector<index_t> shape;        ///< extents, the slowest first
  std::span<const std::byte> bytes;  ///< elements, row-major, in the file's memory; no alignment is assured

  /// Number of elements.
  index_t count() const { return static_cast<index_t>(bytes.size()) * 8 / info(dtype).bits; }
};

/// A file opened for reading. Opening checks the whole header: its length against 100 MB and the
/// file's size; the structure above, in which metadata may be null and tensors may have further
/// keys; no unknown dtype; extents and offsets are integers in range, products do not overflow,
/// begin <= end, the size is that of shape and dtype, and the arrays cover the data without overlap
/// or hole. Every failure is an IoError that names the file and, where there is one, the tensor,
/// and says what was expected and what was found.
///
/// What the safetensors library takes is taken, but for what the format forbids and that library
/// lets pass (a key twice, blanks before the '{'), more than 64 extents, an extent of 2^63 or more,
/// and a tensor's entry or dtype in the other forms that serde reads.
///
/// `read` and `read_as` copy from the file: one that was shortened since it was opened is an
/// IoError. `find` gives its memory as it is mapped, which ends the process then (see FileBytes).
class SafetensorsFile {
 public:
  /// Opens a file. Throws IoError.
  explicit SafetensorsFile(const std::string& path) : SafetensorsFile(FileBytes::open(path), path) {}
  /// Reads a file that is in memory; `name` stands for the path in messages.
  SafetensorsFile(FileBytes bytes, std::string name)
      : file_(std::move(bytes)), path_(std::move(name)), header_(detail::parse_header(file_, path_)) {}

  /// The path, or the name given for it.
  const std::string& path() const { return path_; }
  /// All metadata.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  /// Names in the order of their data.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const detail::HeaderEntry& entry : header_.entries)
      names.push_back(entry.name);
    return names;
  }
  /// Whether there is an array of this name.
  bool contains(std::string_view name) const { return header_.index.find(name) != header_.index.end(); }

  /// The array, which lives as long as the file object (or a copy of it). Throws IoError when there
  /// is none.
  Tensor find(std::string_view name) const {
    const auto at = header_.index.find(name);
    if (at == header_.index.end()) {
      throw IoError(path_ + ": tensor '" + std::string(name) + "' is missing (the file has " +
                    std::to_string(header_.entries.size()) + " others)");
    }
    const detail::HeaderEntry& entry = header_.entries[at->second];
    return {entry.name, entry.dtype, entry.shape,
            file_.bytes().subspan(header_.data_begin + static_cast<std::size_t>(entry.begin),
                                  static_cast<std::size_t>(entry.end - entry.begin))};
  }

  /// The array, which must have the shape given. Throws IoError, with both shapes where they
  /// differ.
  Tensor find(std::string_view name, std::span<const index_t> shape) const {
    Tensor tensor = find(name);
    if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
      throw error(name,
                  "has shape " + shape_list_text(tensor.shape) + ", expected " + shape_list_text(shape));
    }
    return tensor;
  }

  /// Elements of exactly the type X (float, double, float16, bfloat16, int32, int64, uint8),
  /// copied. Throws IoError for another type.
  template <class X>
  std::vector<X> read(std::string_view name) const {
    const Tensor tensor = find(name);
    if (tensor.dtype != dtype_of<X>()) {
      throw error(name, "has dtype " + std::string(info(tensor.dtype).name) + ", expected " +
                            std::string(info(dtype_of<X>()).name));
    }
    std::vector<X> values(static_cast<std::size_t>(tensor.count()));
    file_.copy(offset_of(tensor), std::as_writable_bytes(std::span(values)));
    return values;
  }

  /// Elements of any floating-point type (F64, F32, F16, BF16) converted to T. Throws IoError for
  /// another type.
  template <class T>
  std::vector<T> read_as(std::string_view name) const {
    const Tensor tensor = find(name);
    std::vector<T> values(static_cast<std::size_t>(tensor.count()));
    switch (tensor.dtype) {
      case DType::f64:
        convert<double>(tensor, values, [](double x) { return x; });
        break;
      case DType::f32:
        convert<float>(tensor, values, [](float x) { return x; });
        break;
      case DType::f16:
        convert<float16>(tensor, values, [](float16 x) { return static_cast<float>(x); });
        break;
      case DType::bf16:
        convert<bfloat16>(tensor, values, [](bfloat16 x) { return static_cast<float>(x); });
        break;
      default:
        throw error(name, "has dtype " + std::string(info(tensor.dtype).name) +
                              ", expected a floating-point type (F64, F32, F16, BF16)");
    }
    return values;
  }

  /// Throws IoError where the file has become too short for the array since it was opened: a look at its memory would end
  /// the process then.
  void require_whole(const Tensor& tensor) const {
    if (tensor.bytes.empty()) return;
    std::byte last;
    file_.copy(offset_of(tensor) + tensor.bytes.size() - 1, {&last, 1});
  }

  /// An entry of the metadata. Throws IoError when there is none.
  const std::string& metadata(const std::string& key) const {
    const auto at = header_.metadata.find(key);
    if (at == header_.metadata.end()) throw IoError(path_ + ": metadata has no '" + key + "'");
    return at->second;
  }

  /// "<path>: tensor '<name>' <what>", for the readers of particular contents.
  IoError error(std::string_view name, const std::string& what) const {
    return IoError(path_ + ": tensor '" + std::string(name) + "' " + what);
  }

 private:
  std::size_t offset_of(const Tensor& tensor) const {
    return static_cast<std::size_t>(tensor.bytes.data() - file_.bytes().data());
  }

  template <class X, class T, class F>
  void convert(const Tensor& tensor, std::vector<T>& values, F f) const {
    constexpr std::size_t block = std::size_t{1} << 16;
    std::vector<X> part((std::min)(values.size(), block));
    for (std::size_t first = 0; first < values.size(); first += block) {
      part.resize((std::min)(block, values.size() - first));
      file_.copy(offset_of(tensor) + first * sizeof(X), std::as_writable_bytes(std::span(part)));
      for (std::size_t i = 0; i < part.size(); ++i)
        values[first + i] = static_cast<T>(f(part[i]));
    }
  }

  FileBytes file_;
  std::string path_;
  detail::Header header_;
};

/// Collects arrays, then writes them as one file. Wider element types stand first, otherwise in the
/// order of adding, and the data begin at a multiple of 8: every array is aligned to its element.
/// The same arrays in the same order give the same bytes.
class SafetensorsWriter {
 public:
  /// Adds an array whose bytes are the caller's until `write`. Throws ValueError for a name given
  /// before or reserved, ShapeError when the bytes do not fit shape and dtype.
  void add(std::string name, DType dtype, std::vector<index_t> shape, std::span<const std::byte> bytes) {
    add(std::move(name), dtype, std::move(shape), bytes, nullptr);
  }
  /// Elements that are the caller's until `write`.
  template <class X>
  void add(std::string name, std::vector<index_t> shape, std::span<const X> values) {
    add(std::move(name), dtype_of<X>(), std::move(shape), std::as_bytes(values), nullptr);
  }
  /// Elements that the writer keeps.
  template <class X>
  void add(std::string name, std::vector<index_t> shape, std::vector<X> values) {
    const auto owner = std::make_shared<const std::vector<X>>(std::move(values));
    add(std::move(name), dtype_of<X>(), std::move(shape), std::as_bytes(std::span<const X>(*owner)), owner);
  }
  /// Elements that `make` gives when they are written, one such array in memory at a time. What it
  /// throws ends `write`, as ShapeError does where their number is not the shape's.
  template <class X>
  void add_made(std::string name, std::vector<index_t> shape, std::function<std::vector<X>()> make) {
    add(std::move(name), dtype_of<X>(), std::move(shape), {}, nullptr, [make = std::move(make)] {
      const auto owner = std::make_shared<const std::vector<X>>(make());
      return Made{std::as_bytes(std::span<const X>(*owner)), owner};
    });
  }

  /// Sets an entry of the metadata. Throws ValueError for a key set before.
  void metadata(std::string key, std::string value) {
    const auto [at, fresh] = metadata_.emplace(std::move(key), std::move(value));
    if (!fresh) throw ValueError("metadata '" + at->first + "' is set twice");
  }

  /// Throws IoError when the file cannot be written (see write_file: an old file then stays as it
  /// was), ValueError when a name or text is not UTF-8 or the header exceeds 100 MB.
  void write(const std::string& path) const {
    const Layout layout = lay_out();
    Made made;
    write_file(path, layout.order.size() + 1, [&](std::size_t part) {
      if (part == 0) return std::as_bytes(std::span<const char>(layout.header));
      made = {};
      made = arrays_[layout.order[part - 1]].content();
      return made.bytes;
    });
  }

  /// The file's bytes.
  std::vector<std::byte> bytes() const {
    const Layout layout = lay_out();
    std::vector<std::byte> all;
    const auto append = [&](std::span<const std::byte> part) {
      all.insert(all.end(), part.begin(), part.end());
    };
    append(std::as_bytes(std::span<const char>(layout.header)));
    for (const std::size_t i : layout.order)
      append(arrays_[i].content().bytes);
    return all;
  }

 private:
  /// Bytes with what owns them.
  struct Made {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };
  struct Array {
    std::string name;
    DType dtype = DType::f32;
    std::vector<index_t> shape;
    index_t size = 0;  ///< in bytes
    Made given;
    std::function<Made()> make;  ///< empty: `given`

    Made content() const {
      if (!make) return given;
      Made made = make();
      if (static_cast<index_t>(made.bytes.size()) == size) return made;
      throw ShapeError("tensor '" + name + "' has " + std::to_string(made.bytes.size()) +
                       " bytes when it is written, expected " + std::to_string(size) + " for shape " +
                       shape_list_text(shape) + " of " + std::string(info(dtype).name));
    }
  };
  struct Layout {
    std::string header;  ///< with its length before it
    std::vector<std::size_t> order;
  };

  void add(std::string name, DType dtype, std::vector<index_t> shape, std::span<const std::byte> bytes,
           std::shared_ptr<const void> owner, std::function<Made()> make = {}) {
    if (name == "__metadata__") throw ValueError("a tensor cannot be named '__metadata__'");
    const bool negative = std::any_of(shape.begin(), shape.end(), [](index_t extent) { return extent < 0; });
    const std::optional<index_t> expected = negative ? std::nullopt : detail::bytes_of(shape, dtype);
    if (!expected) {
      throw ShapeError("tensor '" + name + "' has shape " + shape_list_text(shape) +
                       ", expected extents >= 0 whose product is below 2^63");
    }
    if ((make && *expected < 0) || (!make && static_cast<index_t>(bytes.size()) != *expected)) {
      const std::string found = std::to_string(bytes.size()) + " bytes, expected ";
      throw ShapeError("tensor '" + name + "' has " + found +
                       (*expected < 0 ? "whole bytes" : std::to_string(*expected)) + " for shape " +
                       shape_list_text(shape) + " of " + std::string(info(dtype).name));
    }
    if (!names_.emplace(name, 0).second) throw ValueError("tensor '" + name + "' is added twice");
    arrays_.push_back(
        {std::move(name), dtype, std::move(shape), *expected, {bytes, std::move(owner)}, std::move(make)});
  }

  Layout lay_out() const {
    Layout layout;
    for (std::size_t i = 0; i < arrays_.size(); ++i)
      layout.order.push_back(i);
    std::stable_sort(layout.order.begin(), layout.order.end(), [&](std::size_t a, std::size_t b) {
      return info(arrays_[a].dtype).bits > info(arrays_[b].dtype).bits;
    });
    std::vector<detail::HeaderEntry> entries;
    index_t begin = 0;
    for (const std::size_t i : layout.order) {
      const Array& array = arrays_[i];
      const index_t end = begin + array.size;
      entries.push_back({array.name, array.dtype, array.shape, begin, end});
      begin = end;
    }
    layout.header = detail::header_text(entries, metadata_);
    return layout;
  }

  std::vector<Array> arrays_;
  std::map<std::string, int> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
