#pragma once

#include <cmath>

#include "fast_math.cuh"
#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// 1 / (1 + e^-x).
template <class T>
SPARSEGRAD_HOST_DEVICE compute_t<T> logistic(compute_t<T> x) {
  using C = compute_t<T>;
  if constexpr (is_low_precision<T>) {
    return reciprocal<T>(C(1) + power_of_two<T>(x * -1.44269504F));
  } else {
    return C(1) / (C(1) + std::exp(-x));
  }
}

/// out = silu(gate) up, N entries of a row.
template <class T, int N>
struct SwigluEntries {
  Array2<const T> gate, up;
  Array2<T> out;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t row, index_t pack) const {
    const index_t j = pack * N;
    auto g = load_pack<T, N>(&gate(row, j));
    const auto u = load_pack<T, N>(&up(row, j));
    for (int i = 0; i < N; ++i)
      g.x[i] = g.x[i] * logistic<T>(g.x[i]) * u.x[i];
    store_pack<T, N>(&out(row, j), g);
  }
};

/// From d_out: gate and up become their own gradients.
template <class T, int N>
struct SwigluBackwardEntries {
  using C = compute_t<T>;
  Array2<const T> d_out;
  Array2<T> gate, up;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t row, index_t pack) const {
    const index_t j = pack * N;
    const auto d = load_pack<T, N>(&d_out(row, j));
    auto g = load_pack<T, N>(&gate(row, j));
    auto u = load_pack<T, N>(&up(row, j));
    for (int i = 0; i < N; ++i) {
      const C s = logistic<T>(g.x[i]);
      const C silu = g.x[i] * s;
      g.x[i] = d.x[i] * u.x[i] * (s + silu * (C(1) - s));
      u.x[i] = d.x[i] * silu;
    }
    store_pack<T, N>(&gate(row, j), g);
    store_pack<T, N>(&up(row, j), u);
  }
};

}  // namespace sparsegrad::finetune::device
