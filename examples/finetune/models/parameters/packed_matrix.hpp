#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// A matrix that stays as a file has it, quantised in blocks along its rows, and is read as float piece by piece. Its
/// values never change. Members may be called from several threads, and allocate nothing.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = delete;
  PackedMatrix& operator=(const PackedMatrix&) = delete;
  virtual ~PackedMatrix() = default;

  virtual index_t rows() const = 0;
  virtual index_t cols() const = 0;
  /// Elements of a block: pieces of rows begin at multiples of it, and end at such or with the row.
  virtual index_t block() const = 0;
  /// As stored, in no particular order of rows.
  virtual std::span<const std::byte> bytes() const = 0;
  /// Throws IoError when the file has become too short to be read.
  virtual void require_whole() const = 0;
  /// Columns `first` to `last - 1` of a row. Undefined where `require_whole` would throw.
  virtual void read(index_t row, index_t first, index_t last, float* values) const = 0;
};

/// The packed form of a parameter by its name; null where it has none.
using PackedMatrices = std::function<std::shared_ptr<const PackedMatrix>(std::string_view name)>;

}  // namespace sparsegrad::finetune
