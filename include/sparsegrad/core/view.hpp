// MatrixView: the non-owning view by which matrices cross the API.
#pragma once

#include <limits>
#include <string>
#include <type_traits>

#include "config.hpp"
#include "error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Non-owning view of a row-major matrix.
///
/// Element (i, j) is data[i * stride + j], stride >= cols. Layout of a 2x3 view with stride 4 (the
/// dots are outside the view):
///
///     a00 a01 a02  .
///     a10 a11 a12  .
///
/// The memory is where the backend computes; on the CPU no alignment is assumed.
template <class T>
struct MatrixView {
  T* data = nullptr;   ///< element (0, 0)
  index_t rows = 0;    ///< number of rows
  index_t cols = 0;    ///< number of columns
  index_t stride = 0;  ///< elements from one row to the next

  /// A view of no elements, 0x0.
  constexpr MatrixView() = default;

  /// A view of rows that are `stride_` elements apart.
  /// Throws ShapeError when an extent is negative, stride < cols, data is null though there are
  /// elements, or the rows take more than 2^63 - 1 bytes.
  constexpr MatrixView(T* data_, index_t rows_, index_t cols_, index_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {
    if (rows < 0 || cols < 0 || stride < cols || (data == nullptr && rows > 0 && cols > 0)) {
      throw ShapeError("matrix view of " + shape_text(rows, cols) + " with row stride " +
                       std::to_string(stride) +
                       ": expected extents >= 0, stride >= cols, and data that is not null");
    }
    // Below 2^29 each, no product of the two overflows.
    if (((rows | stride) >> 29) != 0 && rows > 0 && stride > most_bytes / element / rows) {
      throw ShapeError("matrix view of " + shape_text(rows, cols) + " with row stride " +
                       std::to_string(stride) + ": expected one of less than 2^63 bytes");
    }
  }
  /// A view of rows that follow each other without gaps. Throws ShapeError as above.
  constexpr MatrixView(T* data_, index_t rows_, index_t cols_) : MatrixView(data_, rows_, cols_, cols_) {}

  /// A view of elements that may be changed serves as one of elements that may not.
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) constexpr operator MatrixView<U>()
      const {  // NOLINT(google-explicit-constructor)
    return MatrixView<U>(data, rows, cols, stride);
  }

  /// Element (i, j), on the host.
  constexpr T& operator()(index_t i, index_t j) const { return data[i * stride + j]; }
  /// First element of row i.
  constexpr T* row(index_t i) const { return data + i * stride; }
  /// Number of elements.
  constexpr index_t size() const { return rows * cols; }
  /// Whether there are no elements.
  constexpr bool empty() const { return rows == 0 || cols == 0; }
  /// Whether the elements follow each other without gaps.
  constexpr bool contiguous() const { return stride == cols || rows <= 1; }

  /// The part of `count_rows` x `count_cols` whose first element is (first_row, first_col).
  constexpr MatrixView block(index_t first_row, index_t first_col, index_t count_rows,
                             index_t count_cols) const {
    MatrixView part;
    part.data = data == nullptr ? nullptr : data + first_row * stride + first_col;
    part.rows = count_rows;
    part.cols = count_cols;
    part.stride = stride;
    return part;
  }

 private:
  static constexpr index_t most_bytes = (std::numeric_limits<index_t>::max)();
  static constexpr index_t element = static_cast<index_t>(sizeof(T));
};

/// Read-only view as the type of a parameter that takes no part in template argument deduction, so
/// that a MatrixView<T> converts to it.
template <class T>
using ConstMatrixView = MatrixView<const std::type_identity_t<T>>;

/// How a matrix enters a product.
enum class Op {
  none,       ///< as it is
  transpose,  ///< transposed
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
