#pragma once

#include <cmath>
#include <cstdint>

#include <sparsegrad/core/view.hpp>

#include "row_blocks.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Of each row of `logits` [rows, words]: losses[i] = -log softmax(row)[targets[i]]. `d_logits`, where it is not empty,
/// receives the gradient of each row's own loss, softmax(row) - one at the target; of a T that is C it may be `logits`,
/// which are overwritten in any case.
template <class T, class Context>
void cross_entropy(Context& ctx, MatrixView<compute_t<T>> logits, const std::int32_t* targets, double* losses,
                   MatrixView<T> d_logits) {
  using C = compute_t<T>;
  const index_t n = logits.cols;
  // A row is long: each is a task.
  ctx.parallel_for(logits.rows, [&](index_t i) {
    C* x = logits.row(i);
    const auto target = static_cast<index_t>(targets[i]);
    const C top = max_of(x, n);
    const double below_top = static_cast<double>(top) - static_cast<double>(x[target]);
    for_packs<C>(n, [=](auto at) { at.store(x, exp_of(at.load(x) - top)); });
    const C sum = sum_of<C>(n, [=](auto at) { return at.load(x); });
    losses[i] = below_top + std::log(static_cast<double>(sum));
    if (d_logits.empty()) return;
    T* d = d_logits.row(i);
    const C factor = C(1) / sum;
    const C at_target = x[target] * factor - C(1);
    for_packs<C>(n, [=](auto at) { at.store(d, at.load(x) * factor); });
    d[target] = static_cast<T>(at_target);
  });
}

}  // namespace sparsegrad::finetune
