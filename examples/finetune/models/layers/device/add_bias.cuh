#pragma once

#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// x += bias, N columns of a row.
template <class T, int N>
struct AddBias {
  const compute_t<T>* bias;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t pack) const {
    auto sum = load_pack<T, N>(&x(i, pack * N));
    const auto b = load_pack<compute_t<T>, N>(bias + pack * N);
    for (int e = 0; e < N; ++e)
      sum.x[e] += b.x[e];
    store_pack<T, N>(&x(i, pack * N), sum);
  }
};

}  // namespace sparsegrad::finetune::device
