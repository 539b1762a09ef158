#pragma once

#include <sparsegrad/core/view.hpp>

#include "../step_profile.hpp"
#include "packs.hpp"
#include "row_blocks.hpp"

namespace sparsegrad::finetune {

/// Adds the sums of g's columns [g.cols] to `target`; nothing where that is null.
template <class T, class Context>
void host_column_sums(Context& ctx, MatrixView<const T> g, compute_t<T>* target) {
  if (target == nullptr) return;
  using C = compute_t<T>;
  C* const targets[1] = {target};
  profiled_bytes(ctx, Work::column_sums, bytes_of<T>(g.size()), [&] {
    for_rows_with_sums<C, 1>(ctx, g.rows, g.cols, 0, targets, [&](index_t i, C* sums) {
      const T* row = g.row(i);
      for_packs<C>(g.cols, [=](auto at) { at.store(sums, at.load(sums) + at.load(row)); });
    });
  });
}

}  // namespace sparsegrad::finetune
