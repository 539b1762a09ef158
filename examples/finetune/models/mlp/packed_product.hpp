#pragma once

#include "models/layers/few_rows.hpp"
#include "models/parameters/packed_matrix.hpp"

namespace sparsegrad::finetune {

/// y = x W^T for up to `few_rows` rows of x and a W that stays packed: each of the context's threads reads a
/// stretch of W, one row after the other, and no more than a row of it is unpacked at a time. Its numbers are
/// rounded to T, so that y has the bits of few_rows_product with W in T. T is float, double or bfloat16, Out
/// is T or compute_t<T>. Throws IoError when W's file has become too short.
template <class T, class Out>
void packed_product(HostContext& ctx, MatrixView<const T> x, const PackedMatrix& w, MatrixView<Out> y);

/// to[i] = from[i], to the nearest.
template <class T>
void round_numbers(const float* from, index_t n, T* to);

}  // namespace sparsegrad::finetune
