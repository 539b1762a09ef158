// Float products in terms of bfloat16.
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "core/backend.hpp"
#include "rotation_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// A float matrix as the sum of one to three of bfloat16 (RotationPrecision).
struct SplitMatrix {
  /// The terms, the largest first; the first `count` of them.
  std::array<MatrixView<const bfloat16>, 3> term;
  int count = 0;  ///< of terms

  /// A part of it.
  SplitMatrix block(index_t row, index_t col, index_t rows, index_t cols) const {
    SplitMatrix part{{}, count};
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      part.term[i] = term[i].block(row, col, rows, cols);
    return part;
  }
};

/// Bytes of scratch memory that `split` takes for a matrix of n elements.
inline index_t split_bytes(index_t n, int terms) {
  return terms * (n * static_cast<index_t>(sizeof(bfloat16)) + 256);
}

/// A in `terms` terms, in the frame's memory.
template <class B, class Frame>
SplitMatrix split(typename B::Context& ctx, Frame& frame, MatrixView<const float> a, int terms) {
  std::array<MatrixView<bfloat16>, 3> memory;
  SplitMatrix result{{}, terms};
  for (std::size_t i = 0; i < static_cast<std::size_t>(terms); ++i)
    result.term[i] = memory[i] = frame.template matrix<bfloat16>(a.rows, a.cols);
  B::split(ctx, a, std::span(memory.data(), static_cast<std::size_t>(terms)));
  return result;
}

/// C = op(A) op(B) + beta C of matrices with equally many terms, sums in float: the products of two
/// terms whose places add up to less than that number, the small ones first.
template <class B>
void split_gemm(typename B::Context& ctx, Op op_a, Op op_b, const SplitMatrix& a, const SplitMatrix& b,
                float beta, MatrixView<float> c) {
  for (int places = a.count - 1; places >= 0; --places) {
    for (int i = places; i >= 0; --i) {
      B::template gemm_wide<bfloat16>(ctx, op_a, op_b, 1.0F, a.term[static_cast<std::size_t>(i)],
                                      b.term[static_cast<std::size_t>(places - i)], beta, c);
      beta = 1.0F;
    }
  }
}

/// C = op(A) op(B) + beta C of float matrices at that precision, which must be available.
template <class T, class B>
void rotation_gemm(typename B::Context& ctx, RotationPrecision precision, Op op_a, Op op_b,
                   ConstMatrixView<T> a, ConstMatrixView<T> b, T beta, MatrixView<T> c) {
  if constexpr (splits_products<T, B>) {
    if (precision != RotationPrecision::full) {
      if (c.empty()) return;
      auto frame = ctx.frame();
      const int terms = bfloat16_terms(precision);
      const SplitMatrix left = split<B>(ctx, frame, a, terms);
      return split_gemm<B>(ctx, op_a, op_b, left, split<B>(ctx, frame, b, terms), beta, c);
    }
  }
  B::template gemm<T>(ctx, op_a, op_b, T(1), a, b, beta, c);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
