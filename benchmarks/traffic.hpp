// Bytes that a computation reads and writes at least: each operand and each result once.
#pragma once

#include <sparsegrad/plan.hpp>
#include <sparsegrad/tucker_basis.hpp>

#include <cstddef>

namespace sparsegrad::bench {

/// `width`: bytes of a number.
inline double matrix_bytes(index_t rows, index_t cols, std::size_t width = sizeof(float)) {
  return static_cast<double>(width) * static_cast<double>(rows) * static_cast<double>(cols);
}

/// [m, l] times [l, n].
inline double product_bytes(index_t m, index_t n, index_t l, std::size_t width = sizeof(float)) {
  return matrix_bytes(m, l, width) + matrix_bytes(l, n, width) + matrix_bytes(m, n, width);
}

/// A product of tokens' matrices, of `width` bytes a number, summed in float: [rows, tokens] times [tokens, cols].
inline double token_sum_bytes(index_t rows, index_t cols, index_t tokens, std::size_t width) {
  return matrix_bytes(rows, tokens, width) + matrix_bytes(tokens, cols, width) + matrix_bytes(rows, cols);
}

/// `vectors` vectors onto a side.
template <class Side>
double projection_bytes(const Side& side, index_t vectors, std::size_t width = sizeof(float)) {
  if (!side.rotates()) return 0;
  if (!side.has_factor()) return 2 * matrix_bytes(vectors, side.extent(), width);
  return product_bytes(vectors, side.rank(), side.extent(), width);
}

/// The core gradient of a step under `plan`: product and projections of all micro-batches, whose tokens have `width`
/// bytes a number, and what is left to project at the end, the input side first.
template <class Basis>
double core_bytes(const Plan& plan, const Basis& basis, index_t tokens, index_t micro_batches,
                  std::size_t width = sizeof(float)) {
  const bool out_first = plan.out == SideOrder::project_first;
  const bool in_first = plan.in == SideOrder::project_first;
  const index_t rows = out_first ? basis.rows() : basis.out_extent();
  const index_t cols = in_first ? basis.cols() : basis.in_extent();
  double micro = token_sum_bytes(rows, cols, tokens, width);
  if (out_first) micro += projection_bytes(basis.out(), tokens, width);
  if (in_first) micro += projection_bytes(basis.in(), tokens, width);
  double end = 0;
  if (!in_first) end += projection_bytes(basis.in(), rows);
  if (!out_first) end += projection_bytes(basis.out(), basis.cols());
  return static_cast<double>(micro_batches) * micro + end;
}

}  // namespace sparsegrad::bench
