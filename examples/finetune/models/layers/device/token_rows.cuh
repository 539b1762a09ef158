// Rows of a table for tokens, and rows of chosen tokens.
#pragma once

#include <cstdint>

#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// x.row(i) = table.row(ids[i]), N entries.
template <class T, int N>
struct EmbedRow {
  Array2<const compute_t<T>> table;
  const std::int32_t* ids;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    store_pack<T, N>(&x(i, pack * N), load_pack<compute_t<T>, N>(&table(ids[i], pack * N)));
  }
};

/// y.row(i) = x.row(rows[i]) + residual.row(rows[i]).
template <class T, int N>
struct TakeRow {
  const std::int32_t* rows;
  Array2<const T> x, residual;
  Array2<T> y;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    auto v = load_pack<T, N>(&x(rows[i], pack * N));
    const auto r = load_pack<T, N>(&residual(rows[i], pack * N));
    for (int e = 0; e < N; ++e)
      v.x[e] += r.x[e];
    store_pack<T, N>(&y(i, pack * N), v);
  }
};

}  // namespace sparsegrad::finetune::device
