// Loops over the rows of activations, with column sums that do not depend on the number of threads.
#pragma once

#include <algorithm>

#include <sparsegrad/core/backend.hpp>

namespace sparsegrad::glue {

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

/// Calls f(row, sums) for all rows; `sums` [width] starts at zero in each block and collects what the rows add.
/// Then adds the blocks' sums, in the order of the blocks, to targets[s][0 .. part), where width = S * part;
/// null targets are left out.
template <class T, int S, class Context, class F>
void for_rows_with_sums(Context& ctx, index_t rows, index_t part, T* const (&targets)[S], F&& f) {
  if (rows == 0) return;
  const RowBlocks blocks(rows);
  const index_t width = S * part;
  auto frame = ctx.frame();
  T* memory = frame.template take<T>(blocks.count * width);
  ctx.parallel_for(blocks.count, [&](index_t block) {
    T* sums = memory + block * width;
    std::fill(sums, sums + width, T(0));
    for (index_t i = blocks.begin(block); i < blocks.end(block); ++i)
      f(i, sums);
  });
  for (int s = 0; s < S; ++s) {
    T* __restrict target = targets[s];
    if (target == nullptr) continue;
    for (index_t block = 0; block < blocks.count; ++block) {
      const T* __restrict sums = memory + block * width + s * part;
      for (index_t j = 0; j < part; ++j)
        target[j] += sums[j];
    }
  }
}

}  // namespace sparsegrad::glue
