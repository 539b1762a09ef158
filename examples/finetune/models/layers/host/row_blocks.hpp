// Loops over the rows of activations, with column sums that do not depend on the number of threads.
#pragma once

#include <algorithm>

#include <sparsegrad/core/backend.hpp>

#include "packs.hpp"

namespace sparsegrad::finetune {

/// Cuts `rows` into at most `most` blocks of at least `least` rows, by the number of rows alone.
struct RowBlocks {
  static constexpr index_t most = 32;
  static constexpr index_t least = 16;

  explicit RowBlocks(index_t rows_) : rows(rows_) { count = std::clamp<index_t>(rows / least, 1, most); }
  index_t begin(index_t block) const { return rows * block / count; }
  index_t end(index_t block) const { return rows * (block + 1) / count; }

  index_t rows;
  index_t count;
};

/// Calls f(row) for all rows, side by side.
template <class Context, class F>
void for_rows(Context& ctx, index_t rows, F&& f) {
  const RowBlocks blocks(rows);
  if (rows == 0) return;
  ctx.parallel_for(blocks.count, [&](index_t block) {
    for (index_t i = blocks.begin(block); i < blocks.end(block); ++i)
      f(i);
  });
}

/// Where the row of a pass that reads it several times is worked on in compute_t<T>: the row itself, or, of a T of 16
/// bits, `memory`.
template <class T>
compute_t<T>* work_row(T* row, [[maybe_unused]] compute_t<T>* memory) {
  if constexpr (is_low_precision<T>) {
    return memory;
  } else {
    return row;
  }
}
/// Elements of the memory of such a row.
template <class T>
constexpr index_t work_row_size(index_t cols) {
  return is_low_precision<T> ? cols : 0;
}

/// Calls f(row, z) for all rows of x, side by side; z is the row's work_row, which f fills.
template <class T, class Context, class F>
void for_work_rows(Context& ctx, MatrixView<T> x, F&& f) {
  if (x.rows == 0) return;
  const RowBlocks blocks(x.rows);
  const index_t width = work_row_size<T>(x.cols);
  auto frame = ctx.frame();
  compute_t<T>* memory = frame.template take<compute_t<T>>(blocks.count * width);
  ctx.parallel_for(blocks.count, [&](index_t block) {
    for (index_t i = blocks.begin(block); i < blocks.end(block); ++i)
      f(i, work_row<T>(x.row(i), memory + block * width));
  });
}

/// Calls f(row, sums) for all rows; `sums` [S * part] starts at zero in each block and collects what the rows add.
/// Behind it is room for a work_row of `extra` elements. Then adds the blocks' sums, in the order of the blocks, to
/// targets[s][0 .. part); null targets are left out.
template <class C, int S, class Context, class F>
void for_rows_with_sums(Context& ctx, index_t rows, index_t part, index_t extra, C* const (&targets)[S],
                        F&& f) {
  if (rows == 0) return;
  const RowBlocks blocks(rows);
  const index_t width = S * part + extra;
  auto frame = ctx.frame();
  C* memory = frame.template take<C>(blocks.count * width);
  ctx.parallel_for(blocks.count, [&](index_t block) {
    C* sums = memory + block * width;
    std::fill(sums, sums + S * part, C(0));
    for (index_t i = blocks.begin(block); i < blocks.end(block); ++i)
      f(i, sums);
  });
  for (int s = 0; s < S; ++s) {
    C* __restrict target = targets[s];
    if (target == nullptr) continue;
    for (index_t block = 0; block < blocks.count; ++block) {
      const C* __restrict sums = memory + block * width + s * part;
      for (index_t j = 0; j < part; ++j)
        target[j] += sums[j];
    }
  }
}

}  // namespace sparsegrad::finetune
