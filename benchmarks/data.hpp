// Numbers to compute with, and bases whose making costs nothing.
#pragma once

#include <sparsegrad/core/buffer.hpp>
#include <sparsegrad/sparse_gradient.hpp>
#include <sparsegrad/tucker_basis.hpp>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace sparsegrad::bench {

/// Numbers by a seed (xorshift64*), about normal.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}

  float uniform() {  // [0, 1)
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<float>((state_ * 0x2545f4914f6cdd1dULL) >> 40) * 0x1p-24F;
  }
  /// Sum of four uniform numbers, of variance 1.
  float normal() { return (uniform() + uniform() + uniform() + uniform() - 2) * std::sqrt(3.0F); }

 private:
  std::uint64_t state_;
};

/// [rows, cols] of normal numbers, each column scaled by exp(spread * normal): real activations and gradients have
/// columns of very different size.
template <class Backend>
Buffer<float, Backend> normal_matrix(typename Backend::Context& ctx, index_t rows, index_t cols, float spread,
                                     std::uint64_t seed) {
  Random random(seed);
  std::vector<float> scale(static_cast<std::size_t>(cols));
  for (float& s : scale)
    s = std::exp(spread * random.normal());
  std::vector<float> host(static_cast<std::size_t>(rows * cols));
  for (std::size_t e = 0; e < host.size(); ++e)
    host[e] = random.normal() * scale[e % scale.size()];
  Buffer<float, Backend> matrix(ctx, rows * cols);
  Backend::template upload<float>(ctx, host.data(), matrix.data(), rows * cols);
  return matrix;
}

/// The same numbers as T stores them.
template <class T, class Backend>
Buffer<T, Backend> stored_as(typename Backend::Context& ctx, Buffer<float, Backend> values) {
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    Buffer<T, Backend> rounded(ctx, values.size());
    Backend::template round_to<T>(ctx, values.matrix(1, values.size()), rounded.matrix(1, rounded.size()));
    return rounded;
  }
}

/// About `count` positions of a core [rows, cols], those of every seed out of the same `pool` of them.
template <class Backend>
SparseGradient<float, Backend> random_support(typename Backend::Context& ctx, index_t rows, index_t cols,
                                              index_t count, index_t pool, std::uint64_t seed) {
  Random random(seed);
  Random places(7);
  const index_t slot = rows * cols / pool;
  std::vector<stored_index_t> index;
  for (index_t p = 0; p < pool; ++p) {
    const auto place = static_cast<index_t>(places.uniform() * static_cast<float>(slot));
    if (random.uniform() * static_cast<float>(pool) < static_cast<float>(count)) {
      index.push_back(static_cast<stored_index_t>(slot * p + place));
    }
  }
  std::vector<float> value(index.size());
  for (float& v : value)
    v = random.normal();
  SparseGradient<float, Backend> s(ctx, rows, cols, static_cast<index_t>(index.size()));
  s.assign(ctx, index, value);
  return s;
}

/// A stored orthonormal side [n, r]: the first r vectors of a randomised block Hadamard transform, written out. Its
/// products cost what those of a fitted side cost.
template <class Backend>
BasisSide<float, Backend> stored_side(typename Backend::Context& ctx, index_t n, index_t r,
                                      std::uint64_t seed) {
  const auto fast = BasisSide<float, Backend>::hadamard(ctx, n, seed);
  std::vector<float> eye(static_cast<std::size_t>(n * n));
  for (index_t i = 0; i < n; ++i)
    eye[static_cast<std::size_t>(i * n + i)] = 1;
  Buffer<float, Backend> in(ctx, n * n);
  Buffer<float, Backend> out(ctx, n * n);
  Backend::template upload<float>(ctx, eye.data(), in.data(), n * n);
  fast.project_rows(ctx, in.matrix(n, n), out.matrix(n, n));  // U^T I
  return BasisSide<float, Backend>::from_rows(ctx, out.matrix(n, n).block(0, 0, r, n));
}

}  // namespace sparsegrad::bench
