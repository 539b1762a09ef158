#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/core/config.hpp>
#include <sparsegrad/io/file_bytes.hpp>

#include "checkpoints/gguf_blocks.hpp"

// GGUF files: metadata and quantised tensors of llama.cpp's models (github.com/ggml-org/ggml, docs/gguf.md).
//
//     "GGUF", version (2 or 3), number of tensors, number of metadata entries
//     metadata:  key, type, value
//     tensors:   name, extents (the fastest first), type, offset of the data
//     padding to a multiple of general.alignment (32), then the tensors' data
//
// In short:
//   const GgufFile file("model.gguf");
//   const std::int64_t blocks = file.at<std::int64_t>("llama.block_count");
//   const auto theta = file.get<double>("llama.rope.freq_base");   // nothing where the key is not there
//   const GgufTensor& up = file.tensor("blk.0.ffn_up.weight");
//   file.dequantize(up, 0, up.rows(), values);

namespace sparsegrad::finetune {

/// One tensor of an open GGUF file.
struct GgufTensor {
  std::string name;                ///< as in the file
  const GgufType* type = nullptr;  ///< type of its elements
  std::vector<index_t> shape;  ///< extents, the slowest first, as Hugging Face has them; none: one element
  std::span<const std::byte> bytes;  ///< its blocks, row by row, in the file's memory

  index_t cols() const { return shape.empty() ? 1 : shape.back(); }  ///< elements of a row
  index_t rows() const;                                              ///< product of the other extents
  index_t count() const { return rows() * cols(); }                  ///< number of elements
};

/// A GGUF file opened for reading: versions 2 and 3, little-endian. Opening checks everything that the file says of
/// itself against its size before it is used: lengths, counts, types, that a key and a name stands once, that texts are
/// UTF-8, that truth values are 0 or 1, that tensors begin at a multiple of the alignment, end within the file and do not
/// overlap, and that their rows are whole blocks. Every failure is an IoError that names the file and the key or tensor,
/// and says what was found and what was expected.
///
/// `dequantize` copies from the file: one that was shortened since it was opened is an IoError. Metadata and
/// `GgufTensor::bytes` are the file's memory as it is mapped (see io::FileBytes).
class GgufFile {
 public:
  /// Opens a file. Throws IoError.
  explicit GgufFile(const std::string& path);
  /// Reads a file that is in memory; `name` stands for the path in messages.
  GgufFile(io::FileBytes bytes, std::string name);

  /// The path, or the name given for it.
  const std::string& path() const { return path_; }
  /// Of the format.
  std::uint32_t version() const { return version_; }
  /// Keys of the metadata in the order of the alphabet.
  std::vector<std::string> keys() const;
  /// Whether the metadata have this key.
  bool contains_key(std::string_view key) const { return entries_.find(key) != entries_.end(); }

  /// A value of the metadata, nothing where the key is not there. T and the types of the file that it takes:
  ///   std::int64_t                    every integer that fits
  ///   double                          float32, float64 and every integer
  ///   bool                            bool
  ///   std::string_view                string; it lives as long as the file object or a copy
  ///   std::vector<T> of these four    an array of such
  /// Throws IoError when it is of another type.
  template <class T>
  std::optional<T> get(std::string_view key) const;
  /// The same. Throws IoError where the key is not there.
  template <class T>
  T at(std::string_view key) const {
    if (auto value = get<T>(key)) return *value;
    throw missing(key);
  }
  /// A value with its type in front, as the file has it: for a file that is written from this one. Throws IoError where
  /// the key is not there.
  std::span<const std::byte> value_bytes(std::string_view key) const;
  /// A value for people: texts in quotes and cut, arrays by their type, length and first elements.
  std::string text_of(std::string_view key) const;

  /// The tensors in the order of the file.
  std::span<const GgufTensor> tensors() const { return tensors_; }
  /// Whether there is a tensor of this name.
  bool contains(std::string_view name) const { return index_.find(name) != index_.end(); }
  /// The tensor of this name. Throws IoError when there is none.
  const GgufTensor& tensor(std::string_view name) const;
  /// The same, of this shape. Throws IoError, with both shapes, where it has another.
  const GgufTensor& tensor(std::string_view name, std::span<const index_t> shape) const;
  /// Rows `first` to `last - 1` as float, see `dequantize_blocks`. `tensor` is one of this file's, `values` has
  /// (last - first) * cols() elements. Throws IoError when the type cannot be read or the file has become too
  /// short, ShapeError when rows or size do not fit.
  void dequantize(const GgufTensor& tensor, index_t first, index_t last, std::span<float> values) const;

  /// A copy of a tensor's blocks. Throws IoError when the file has become too short.
  std::vector<std::byte> blocks(const GgufTensor& tensor) const;

  /// Throws IoError when the file has become too short for this tensor's bytes. Without this a look at them is a fault of
  /// memory then, as it still is in the moment between.
  void require_whole(const GgufTensor& tensor) const;

  /// "<path>: <what>", for the readers of particular contents.
  IoError error(const std::string& what) const { return IoError(path_ + ": " + what); }

 private:
  /// Where a value of the metadata stands.
  struct Entry {
    std::uint32_t type = 0;   ///< of the value, or of an array's elements
    bool is_array = false;    ///< or one value
    std::uint64_t count = 1;  ///< of elements
    std::size_t begin = 0;    ///< of the value's type in the file
    std::size_t offset = 0;   ///< of the first element
    std::size_t end = 0;      ///< behind the last one
  };
  class Reader;

  void read_entries(Reader& reader, std::uint64_t count);
  void read_tensors(Reader& reader, std::uint64_t count);
  Entry read_value(Reader& reader, const std::string& where) const;
  std::size_t read_alignment() const;
  void check_overlap() const;
  const Entry* find(std::string_view key) const;
  IoError missing(std::string_view key) const;
  IoError wrong_type(std::string_view key, const Entry& entry, const std::string& expected) const;
  template <class T>
  std::optional<std::vector<T>> elements(std::string_view key, bool is_array) const;

  io::FileBytes file_;
  std::string path_;
  std::uint32_t version_ = 0;
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  ///< of tensors, by name
};

}  // namespace sparsegrad::finetune
