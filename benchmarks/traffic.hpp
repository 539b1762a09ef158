// Bytes that a computation reads and writes at least: each operand and each result once.
#pragma once

#include <sparsegrad/plan.hpp>
#include <sparsegrad/tucker_basis.hpp>

namespace sparsegrad::bench {

inline double matrix_bytes(index_t rows, index_t cols) {
  return 4.0 * static_cast<double>(rows) * static_cast<double>(cols);
}

/// [m, l] times [l, n].
inline double product_bytes(index_t m, index_t n, index_t l) {
  return matrix_bytes(m, l) + matrix_bytes(l, n) + matrix_bytes(m, n);
}

/// `vectors` vectors onto a side.
template <class Side>
double projection_bytes(const Side& side, index_t vectors) {
  if (!side.rotates()) return 0;
  if (!side.has_factor()) return 2 * matrix_bytes(vectors, side.extent());
  return product_bytes(vectors, side.rank(), side.extent());
}

/// The core gradient of a step under `plan`: product and projections of all micro-batches, and what is left to project
/// at the end, the input side first.
template <class Basis>
double core_bytes(const Plan& plan, const Basis& basis, index_t tokens, index_t micro_batches) {
  const bool out_first = plan.out == SideOrder::project_first;
  const bool in_first = plan.in == SideOrder::project_first;
  const index_t rows = out_first ? basis.rows() : basis.out_extent();
  const index_t cols = in_first ? basis.cols() : basis.in_extent();
  double micro = product_bytes(rows, cols, tokens);
  if (out_first) micro += projection_bytes(basis.out(), tokens);
  if (in_first) micro += projection_bytes(basis.in(), tokens);
  double end = 0;
  if (!in_first) end += projection_bytes(basis.in(), rows);
  if (!out_first) end += projection_bytes(basis.out(), basis.cols());
  return static_cast<double>(micro_batches) * micro + end;
}

}  // namespace sparsegrad::bench
