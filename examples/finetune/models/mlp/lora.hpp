#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "models/layers/linear.hpp"
#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

/// What a new A is filled with; B is zero.
enum class LoraInit {
  kaiming,  ///< uniform in +-1 / sqrt(in): kaiming_uniform with a = sqrt(5), as loralib, peft and the reference do
  gaussian,  ///< normal with deviation 1 / rank, as in the paper's description
};

/// LoRA beside a frozen matrix (Hu et al., 2021): y += scale (x A^T) B^T with A [rank, in], B [out, rank].
template <class T, class Backend>
struct Lora {
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  MatrixView<const T> a, b;
  MatrixView<C> d_a, d_b;
  C scale = C(1);

  bool on() const { return !a.empty(); }
  index_t rank() const { return a.rows; }

  /// `xa` [tokens, rank] keeps x A^T for backward.
  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> xa, MatrixView<T> y) const {
    Backend::template gemm<T>(ctx, Op::none, Op::transpose, C(1), x, a, C(0), xa);
    Backend::template gemm<T>(ctx, Op::none, Op::transpose, scale, xa, b, C(1), y);
  }
  /// d_b += scale dy^T (x A^T); d_a += (scale dy B)^T x; dx += (scale dy B) A, unless it is empty. `work` [tokens, rank].
  void backward(Context& ctx, MatrixView<const T> dy, MatrixView<const T> x, MatrixView<const T> xa,
                MatrixView<T> work, MatrixView<T> dx) const {
    if (!d_b.empty()) wide_product<T, Backend>(ctx, Op::transpose, Op::none, scale, dy, xa, C(1), d_b);
    Backend::template gemm<T>(ctx, Op::none, Op::none, scale, dy, b, C(0), work);
    if (!d_a.empty()) wide_product<T, Backend>(ctx, Op::transpose, Op::none, C(1), work, x, C(1), d_a);
    if (!dx.empty()) Backend::template gemm<T>(ctx, Op::none, Op::none, C(1), work, a, C(1), dx);
  }
};

/// Values of a new adapter's matrix [rows, cols]: A random, B zeros. `key` chooses the random numbers.
template <class C>
std::vector<C> initial_adapter(bool is_a, LoraInit init, index_t rows, index_t cols, std::uint64_t key) {
  std::vector<C> values(static_cast<std::size_t>(rows * cols));
  if (!is_a) return values;
  const double edge = 1 / std::sqrt(static_cast<double>(cols));
  const double deviation = 1 / static_cast<double>(rows);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<C>(init == LoraInit::kaiming ? edge * (2 * uniform_at(key, i) - 1)
                                                         : deviation * normal_at(key, i));
  }
  return values;
}

}  // namespace sparsegrad::finetune
