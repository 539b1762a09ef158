#pragma once

#include <cstdint>

#include "../causal_shape.hpp"
#include "../rope.hpp"
#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// Rotates N pairs of columns of a row's queries or keys to the row's position, or back; with a bias it is added first,
/// to the values too. Items of a row: the pairs of all heads that rotate, then packs of the values.
template <class T, int N>
struct RotateEntries {
  using C = compute_t<T>;
  std::uint32_t heads;  ///< that rotate
  std::uint32_t head_size;
  bool back;
  Array2<const C> cosines, sines;
  const std::int32_t* positions;
  const C* bias;
  Array2<T> qkv;

  /// Items of a row.
  static index_t items(const CausalShape& shape, bool with_values) {
    return ((shape.heads + shape.kv_heads) * (shape.head_size / 2) + (with_values ? shape.kv_cols() : 0)) / N;
  }

  SPARSEGRAD_HOST_DEVICE void operator()(index_t row, index_t item) const {
    const std::uint32_t half = head_size / 2;
    const std::uint32_t pairs = half / N;
    const auto number = static_cast<std::uint32_t>(item);
    if (number >= heads * pairs) {
      const index_t j = heads * head_size + (number - heads * pairs) * N;
      const auto v = load_pack<T, N>(&qkv(row, j));
      store_pack<T, N>(&qkv(row, j), sum_of(v, j));
      return;
    }
    const std::uint32_t c = number % pairs * N;
    const index_t low = number / pairs * head_size + c;
    const index_t high = low + half;
    const index_t position = positions[row];
    const auto cos = load_pack<C, N>(&cosines(position, c));
    const auto sin = load_pack<C, N>(&sines(position, c));
    auto x = sum_of(load_pack<T, N>(&qkv(row, low)), low);
    auto y = sum_of(load_pack<T, N>(&qkv(row, high)), high);
    for (int i = 0; i < N; ++i) {
      const C s = back ? -sin.x[i] : sin.x[i];
      const C turned = x.x[i] * cos.x[i] - y.x[i] * s;
      y.x[i] = y.x[i] * cos.x[i] + x.x[i] * s;
      x.x[i] = turned;
    }
    store_pack<T, N>(&qkv(row, low), x);
    store_pack<T, N>(&qkv(row, high), y);
  }

 private:
  SPARSEGRAD_HOST_DEVICE Pack<C, N> sum_of(Pack<C, N> v, index_t j) const {
    if (bias == nullptr) return v;
    const auto b = load_pack<C, N>(bias + j);
    for (int i = 0; i < N; ++i)
      v.x[i] += b.x[i];
    return v;
  }
};

}  // namespace sparsegrad::finetune::device
