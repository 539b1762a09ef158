// A matrix in a larger array, whose other elements must not change.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include <sparsegrad/core/view.hpp>

namespace sparsegrad::test {

/// [rows, cols] with `padding` elements between rows and a border before and after, all of them sentinels.
template <class T>
class PaddedMatrix {
 public:
  PaddedMatrix(index_t rows, index_t cols, index_t padding = 0)
      : rows_(rows), cols_(cols), stride_(cols + padding) {
    memory_.assign(static_cast<std::size_t>(rows * stride_ + 2 * border), sentinel);
    for (index_t i = 0; i < rows; ++i)
      std::fill(view().row(i), view().row(i) + cols, T(0));
  }

  /// Normal random entries.
  template <class Random>
  PaddedMatrix& fill(Random& random) {
    std::normal_distribution<double> normal;
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < cols_; ++j)
        view()(i, j) = static_cast<T>(normal(random));
    return *this;
  }
  PaddedMatrix& fill_with(T x) {
    for (index_t i = 0; i < rows_; ++i)
      std::fill(view().row(i), view().row(i) + cols_, x);
    return *this;
  }

  MatrixView<T> view() { return MatrixView<T>(memory_.data() + border, rows_, cols_, stride_); }
  MatrixView<const T> view() const {
    return MatrixView<const T>(memory_.data() + border, rows_, cols_, stride_);
  }
  MatrixView<const T> const_view() const { return view(); }
  T operator()(index_t i, index_t j) const { return view()(i, j); }
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }

  /// The entries alone, row by row.
  std::vector<T> entries() const {
    std::vector<T> all;
    for (index_t i = 0; i < rows_; ++i)
      all.insert(all.end(), view().row(i), view().row(i) + cols_);
    return all;
  }

  bool padding_untouched() const {
    const auto same = [](T x) {
      const T s = sentinel;
      return std::memcmp(&x, &s, sizeof x) == 0;
    };
    for (std::size_t p = 0; p < memory_.size(); ++p) {
      const index_t at = static_cast<index_t>(p) - border;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % std::max<index_t>(stride_, 1) < cols_;
      if (!inside && !same(memory_[p])) return false;
    }
    return true;
  }

 private:
  static constexpr index_t border = 64;
  static inline const T sentinel = T(-77.25F);
  index_t rows_, cols_, stride_;
  std::vector<T> memory_;
};

}  // namespace sparsegrad::test
