#pragma once

#include "models/layers/linear.hpp"

namespace sparsegrad::glue {

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
  /// d_b += scale dy^T (x A^T); d_a += (scale dy B)^T x; dx += (scale dy B) A. `work` [tokens, rank].
  void backward(Context& ctx, MatrixView<const T> dy, MatrixView<const T> x, MatrixView<const T> xa,
                MatrixView<T> work, MatrixView<T> dx) const {
    if (!d_b.empty()) wide_product<T, Backend>(ctx, Op::transpose, Op::none, scale, dy, xa, C(1), d_b);
    Backend::template gemm<T>(ctx, Op::none, Op::none, scale, dy, b, C(0), work);
    if (!d_a.empty()) wide_product<T, Backend>(ctx, Op::transpose, Op::none, C(1), work, x, C(1), d_a);
    Backend::template gemm<T>(ctx, Op::none, Op::none, C(1), work, a, C(1), dx);
  }
};

/// meProp (Sun et al., 2017): of each row of `dy` the k entries of largest magnitude stay, the others become 0.
template <class T, class Backend>
void keep_largest_of_rows(typename Backend::Context& ctx, index_t k, MatrixView<T> dy) {
  if (k >= dy.cols) return;
  if constexpr (is_narrow<T>) {
    auto frame = ctx.frame();
    const MatrixView<compute_t<T>> wide = frame.template matrix<compute_t<T>>(dy.rows, dy.cols);
    Backend::template widen<T>(ctx, dy, wide);
    keep_largest_of_rows<compute_t<T>, Backend>(ctx, k, wide);
    Backend::template narrow<T>(ctx, wide, dy);
  } else if constexpr (requires { Backend::template keep_largest_of_rows<T>(ctx, k, dy); }) {
    Backend::template keep_largest_of_rows<T>(ctx, k, dy);
  } else {
    auto frame = ctx.frame();
    auto* index = frame.template take<stored_index_t>(k);
    T* value = frame.template take<T>(k);
    for (index_t i = 0; i < dy.rows; ++i) {
      Backend::template top_k<T>(ctx, dy.row(i), dy.cols, k, index, value);
      Backend::template zero<T>(ctx, dy.row(i), dy.cols);
      Backend::template scatter<T>(ctx, value, index, k, dy.row(i));
    }
  }
}

}  // namespace sparsegrad::glue
