// Products of a few rows with a weight matrix, such as those of a token that is generated: they take as long
// as reading the weights does.
#pragma once

#include <algorithm>

#include <sparsegrad/backend/reference.hpp>

namespace sparsegrad::finetune {

/// The context of every backend on the host. By the name of the one that reaches no Eigen, which nvcc need not read.
using HostContext = backend::Reference::Context;

/// Rows of x up to which few_rows_product is faster than a library's product, which cuts matrices into tiles
/// and copies them.
inline constexpr index_t few_rows = 4;

/// y = alpha x W^T + beta y for up to `few_rows` rows of x, sums in compute_t<T>. Each of the context's
/// threads reads one stretch of W; the bits of y do not depend on their number. T is float, double or
/// bfloat16, Out is T or compute_t<T>.
template <class T, class Out>
void few_rows_product(HostContext& ctx, compute_t<T> alpha, MatrixView<const T> x, MatrixView<const T> w,
                      compute_t<T> beta, MatrixView<Out> y);

/// Calls f(first, last, i) for stretches [first, last) of the rows of a W [rows, cols], side by side; i is
/// the stretch's number, below that of threads. What is read in less time than a thread takes to wake is one
/// stretch.
template <class F>
void for_weight_rows(HostContext& ctx, index_t rows, index_t cols, F&& f) {
  constexpr index_t least = index_t{1} << 15;
  const index_t count = std::clamp<index_t>(rows * cols / least, 1, ctx.threads());
  ctx.parallel_for(count, [&](index_t i) { f(rows * i / count, rows * (i + 1) / count, i); });
}

}  // namespace sparsegrad::finetune
