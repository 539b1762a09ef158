// SparseGradient: the selected entries of a core gradient, or an update on the same support.
#pragma once

#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "default_backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Sparse matrix [rows, cols] of fixed capacity: values at sorted, unique flat positions i * cols +
/// j.
///
///     rows 2, cols 3, entries (0,1) = 5 and (1,2) = 7:  indices {1, 5}, values {5, 7}
///
/// A gradient with all entries of the matrix is `dense()`: its positions 0, 1, 2, ... are not
/// stored. Whoever writes positions himself must write such: only `assign` looks at them, and
/// whoever takes the gradient from a selector of the caller's.
template <class T, Backend B = DefaultBackend>
class SparseGradient {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// A matrix 0x0.
  SparseGradient() = default;

  /// An empty gradient with room for `capacity` entries. With capacity == rows * cols it holds all
  /// entries or none, without positions (but see `reserve_positions`).
  /// Throws ValueError unless 0 <= capacity <= rows * cols < 2^31.
  SparseGradient(Context& ctx, index_t rows, index_t cols, index_t capacity)
      : rows_(rows), cols_(cols), capacity_(capacity) {
    constexpr index_t most = (std::numeric_limits<stored_index_t>::max)();
    if (rows < 0 || cols < 0 || (rows > 0 && cols > most / rows)) {
      throw ValueError("a sparse gradient of " + shape_text(rows, cols) +
                       " has positions beyond 2^31 - 1, which 32-bit indices cannot hold");
    }
    if (capacity < 0 || capacity > rows * cols) {
      throw ValueError("capacity is " + std::to_string(capacity) +
                       ", expected 0 <= capacity <= rows * cols = " + std::to_string(rows * cols));
    }
    values_.resize(ctx, capacity);
    if (capacity < rows * cols) indices_.resize(ctx, capacity);
  }

  /// Rows of the matrix.
  index_t rows() const { return rows_; }
  /// Columns of the matrix.
  index_t cols() const { return cols_; }
  /// Number of elements of the matrix, rows * cols.
  index_t size() const { return rows_ * cols_; }
  /// Most entries that it can hold.
  index_t capacity() const { return capacity_; }
  /// Number of entries held.
  index_t count() const { return count_; }
  /// Whether it can hold a part of the matrix's entries.
  bool has_positions() const { return capacity_ < size() || indices_.size() == capacity_; }
  /// Takes memory for the positions of a gradient made for all entries, so that it can hold a part
  /// of them as well. Drops the entries where that is new.
  void reserve_positions(Context& ctx) {
    if (has_positions()) return;
    clear();
    indices_.resize(ctx, capacity_);
  }
  /// Whether all elements of the matrix are held, without positions.
  bool dense() const { return dense_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return values_.bytes() + indices_.bytes(); }

  /// Positions [count] in backend memory; null when dense.
  const stored_index_t* indices() const { return dense_ ? nullptr : indices_.data(); }
  /// Positions [count] in backend memory; null when dense.
  stored_index_t* indices() { return dense_ ? nullptr : indices_.data(); }
  /// Values [count] in backend memory.
  const T* values() const { return values_.data(); }
  /// Values [count] in backend memory.
  T* values() { return values_.data(); }
  /// The values as a matrix [rows, cols]; only when dense.
  MatrixView<const T> matrix() const { return values_.matrix(rows_, cols_); }
  /// The values as a matrix [rows, cols]; only when dense.
  MatrixView<T> matrix() { return values_.matrix(rows_, cols_); }

  /// Drops all entries and keeps the memory.
  void clear() {
    count_ = 0;
    dense_ = false;
  }

  /// Sets the number of entries, whose positions and values the caller writes; rows * cols of them
  /// make it dense.
  /// Throws ValueError when count exceeds the capacity, or when it is a part of a gradient made for
  /// all entries, which has no room for positions.
  void set_count(index_t count) {
    if (count < 0 || count > capacity_) {
      throw ValueError("count is " + std::to_string(count) +
                       ", expected 0 <= count <= capacity = " + std::to_string(capacity_));
    }
    if (count > 0 && count < size() && !has_positions()) {
      throw ValueError("count is " + std::to_string(count) + ", expected 0 or all " + std::to_string(size()) +
                       " entries, for which this gradient was made: it has no room for positions; call "
                       "reserve_positions first");
    }
    count_ = count;
    dense_ = count == size() && size() > 0;
  }

  /// Copies entries from host memory. Values are taken as they are, NaN and Inf too: a selection
  /// (select_entries, a group) looks for them afterwards, by its policy.
  /// Throws ValueError, leaving the gradient empty, unless the positions rise strictly, lie in [0,
  /// rows * cols) and are as many as the values.
  void assign(Context& ctx, std::span<const stored_index_t> indices, std::span<const T> values) {
    clear();
    if (indices.size() != values.size()) {
      throw ValueError(std::to_string(indices.size()) + " positions for " + std::to_string(values.size()) +
                       " values");
    }
    for (std::size_t e = 0; e < indices.size(); ++e) {
      if (indices[e] < 0 || indices[e] >= size() || (e > 0 && indices[e] <= indices[e - 1])) {
        throw ValueError("position " + std::to_string(indices[e]) + " at entry " + std::to_string(e) +
                         ": expected strictly rising positions in [0, " + std::to_string(size()) + ")");
      }
    }
    const auto n = static_cast<index_t>(indices.size());
    set_count(n);
    B::template upload<T>(ctx, values.data(), values_.data(), n);
    if (!dense_) B::template upload<stored_index_t>(ctx, indices.data(), indices_.data(), n);
  }

  /// A copy of the positions in host memory, also of a dense gradient.
  std::vector<stored_index_t> positions(Context& ctx) const {
    std::vector<stored_index_t> host(static_cast<std::size_t>(count_));
    if (dense_) {
      std::iota(host.begin(), host.end(), 0);
    } else if (count_ > 0) {
      B::template download<stored_index_t>(ctx, indices_.data(), host.data(), count_);
    }
    return host;
  }

  /// Copies the support (not the values) of another gradient of the same extents.
  /// Throws ShapeError when the extents differ, ValueError when the capacity is too small.
  void copy_support(Context& ctx, const SparseGradient& other) {
    require_shape("support", other.rows(), other.cols(), rows_, cols_, "rows x cols of the core");
    set_count(other.count());
    if (!dense_) {
      B::template copy<stored_index_t>(ctx, MatrixView<const stored_index_t>(other.indices(), 1, count_),
                                       MatrixView<stored_index_t>(indices_.data(), 1, count_));
    }
  }

 private:
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t capacity_ = 0;
  index_t count_ = 0;
  bool dense_ = false;
  Buffer<stored_index_t, B> indices_;
  Buffer<T, B> values_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
