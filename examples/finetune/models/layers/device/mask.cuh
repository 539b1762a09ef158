#pragma once

#include "../dropout.hpp"
#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// Dropout's mask of a row.
template <class C>
struct MaskRow {
  bool on;
  typename Dropout<C>::Row row;

  /// Not initialised, for shared memory.
  MaskRow() = default;
  SPARSEGRAD_HOST_DEVICE MaskRow(const Dropout<C>& dropout, index_t i) : on(dropout.on()), row{} {
    if (on) row = dropout.row(i);
  }
  /// x, which begins at column j, times the mask.
  template <int N>
  SPARSEGRAD_HOST_DEVICE void multiply(Pack<C, N>& x, index_t j) const {
    if (!on) return;
    for (int i = 0; i < N; ++i)
      x.x[i] *= row.at(j + i);
  }
};

/// x *= mask, N entries of a row.
template <class T, int N>
struct MaskEntries {
  Dropout<compute_t<T>> dropout;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    auto v = load_pack<T, N>(&x(i, pack * N));
    MaskRow<compute_t<T>>(dropout, i).multiply(v, pack * N);
    store_pack<T, N>(&x(i, pack * N), v);
  }
};

}  // namespace sparsegrad::finetune::device
