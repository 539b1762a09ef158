// ProductBatch: products of many matrices in one call, and how many of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "core/backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

/// Results of products that are taken together have at most so many bytes, or are those of one
/// matrix: seven of 3072 x 768 floats, whose tiles fill the 132 processors of an H200 four times.
inline constexpr index_t batch_bytes = index_t{64} << 20;

/// How many of `count` products with results of `bytes` bytes each are taken together.
inline index_t batch_size(index_t count, index_t bytes, index_t most = batch_bytes) {
  return (std::min)(count, (std::max)(index_t{1}, most / (std::max)(index_t{1}, bytes)));
}

/// Operands of one gemm_batched. Keeps its memory.
template <class C, Backend B>
class ProductBatch {
 public:
  /// Adds the product of `left` and `right`, which goes to `result`.
  void add(MatrixView<const C> left, MatrixView<const C> right, MatrixView<C> result) {
    left_.push_back(left);
    right_.push_back(right);
    result_.push_back(result);
  }
  /// result = op_left(left) op_right(right) + beta result for all, which are forgotten then.
  void run(typename B::Context& ctx, Op op_left, Op op_right, C beta) {
    B::template gemm_batched<C>(ctx, op_left, op_right, C(1), std::span<const MatrixView<const C>>(left_),
                                std::span<const MatrixView<const C>>(right_), beta,
                                std::span<const MatrixView<C>>(result_));
    left_.clear();
    right_.clear();
    result_.clear();
  }

 private:
  std::vector<MatrixView<const C>> left_, right_;
  std::vector<MatrixView<C>> result_;
};

/// f(tasks) for those of each shape() of sorted tasks.
template <class Task, class F>
void for_each_shape(std::vector<Task>& all, const F& f) {
  for (std::size_t first = 0, last = 0; first < all.size(); first = last) {
    while (last < all.size() && all[last].shape() == all[first].shape())
      ++last;
    f(std::span<Task>(all).subspan(first, last - first));
  }
}

/// f(tasks) for `most` of them at a time.
template <class Task, class F>
void for_each_batch(std::span<Task> all, index_t most, const F& f) {
  const auto size = static_cast<std::size_t>(most);
  for (std::size_t first = 0; first < all.size(); first += size)
    f(all.subspan(first, (std::min)(size, all.size() - first)));
}

}  // namespace detail

}  // namespace sparsegrad::SPARSEGRAD_ABI
