// RotationSide: one side of a basis with the precision of its products with float matrices.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "basis_side.hpp"
#include "low_precision_basis.hpp"
#include "split_product.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// A basis's factors in terms of bfloat16; made by TuckerBasis::split. The first terms are the
/// factors of the LowPrecisionBasis of bfloat16, the others are its own.
template <Backend B>
class SplitBasis {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// Splits the factors of both sides, of which `rounded` has the first terms and must outlive it.
  /// Finished when it returns, for other contexts too.
  SplitBasis(Context& ctx, const BasisSide<float, B>& out, const BasisSide<float, B>& in,
             const LowPrecisionBasis<bfloat16, B>& rounded, int terms)
      : out_(ctx, out, rounded.out().factor(), terms), in_(ctx, in, rounded.in().factor(), terms) {
    wait_for(ctx);
  }

  /// V^T [r, out]; without terms where it is not stored.
  const detail::SplitMatrix& out() const { return out_.factor; }
  /// U^T [c, in]; without terms where it is not stored.
  const detail::SplitMatrix& in() const { return in_.factor; }
  /// Bytes of backend memory held, the first terms apart.
  index_t bytes() const { return out_.rest.bytes() + in_.rest.bytes(); }

 private:
  struct Part {
    Part(Context& ctx, const BasisSide<float, B>& side, MatrixView<const bfloat16> first, int terms) {
      if (!side.has_factor()) return;
      factor.count = terms;
      factor.term[0] = first;
      if (terms == 1) return;
      const index_t rank = side.rank();
      const index_t extent = side.extent();
      rest.resize(ctx, (terms - 1) * rank * extent);
      auto frame = ctx.frame();
      std::array<MatrixView<bfloat16>, 3> all{frame.template matrix<bfloat16>(rank, extent)};
      const MatrixView<bfloat16> own = rest.matrix((terms - 1) * rank, extent);
      for (int i = 1; i < terms; ++i) {
        const auto place = static_cast<std::size_t>(i);
        factor.term[place] = all[place] = own.block((i - 1) * rank, 0, rank, extent);
      }
      B::split(ctx, side.factor(), std::span(all.data(), static_cast<std::size_t>(terms)));
    }
    detail::SplitMatrix factor;
    Buffer<bfloat16, B> rest;
  };
  Part out_, in_;
};

namespace detail {

/// A BasisSide whose products with float matrices are taken at a RotationPrecision. Refers to the
/// side, and to its terms. A Hadamard transform is float's at any precision.
template <class T, Backend B>
class RotationSide {
 public:
  using Context = typename B::Context;

  /// `terms` is not used at full precision.
  RotationSide(const BasisSide<T, B>& side, RotationPrecision precision, const SplitMatrix& terms)
      : side_(side), precision_(precision), terms_(terms) {}

  SideKind kind() const { return side_.kind(); }
  index_t extent() const { return side_.extent(); }
  index_t rank() const { return side_.rank(); }
  bool rotates() const { return side_.rotates(); }
  bool has_factor() const { return side_.has_factor(); }
  MatrixView<const T> factor() const { return side_.factor(); }
  const T* signs() const { return side_.signs(); }
  RotationPrecision precision() const { return precision_; }

  /// Y = A U, as BasisSide::project_columns.
  void project_columns(Context& ctx, ConstMatrixView<T> a, MatrixView<T> y) const {
    if (!splits()) return side_.project_columns(ctx, a, y);
    times_factor(ctx, Op::none, Op::transpose, a, 0, extent(), T(0), y);
  }
  /// Y = U^T A, as BasisSide::project_rows.
  void project_rows(Context& ctx, ConstMatrixView<T> a, MatrixView<T> y) const {
    if (!splits()) return side_.project_rows(ctx, a, y);
    factor_times(ctx, Op::none, Op::none, a, 0, extent(), T(0), y);
  }
  /// A = Y U^T + beta A, as BasisSide::expand_columns.
  void expand_columns(Context& ctx, ConstMatrixView<T> y, T beta, MatrixView<T> a) const {
    if (!splits()) return side_.expand_columns(ctx, y, beta, a);
    times_factor(ctx, Op::none, Op::none, y, 0, extent(), beta, a);
  }
  /// A = U Y + beta A, as BasisSide::expand_rows.
  void expand_rows(Context& ctx, ConstMatrixView<T> y, T beta, MatrixView<T> a) const {
    if (!splits()) return side_.expand_rows(ctx, y, beta, a);
    factor_times(ctx, Op::transpose, Op::none, y, 0, extent(), beta, a);
  }

  /// C = op(F) op(A) + beta C, F the columns [first, first + count) of the stored U^T.
  void factor_times(Context& ctx, Op op_f, Op op_a, ConstMatrixView<T> a, index_t first, index_t count,
                    T beta, MatrixView<T> c) const {
    if (c.empty()) return;
    if constexpr (splits_products<T, B>) {
      if (splits()) {
        auto frame = ctx.frame();
        const SplitMatrix other = split<B>(ctx, frame, a, terms_.count);
        return split_gemm<B>(ctx, op_f, op_a, terms_.block(0, first, rank(), count), other, beta, c);
      }
    }
    B::template gemm<T>(ctx, op_f, op_a, T(1), factor().block(0, first, rank(), count), a, beta, c);
  }
  /// C = op(A) op(F) + beta C, F the columns [first, first + count) of the stored U^T.
  void times_factor(Context& ctx, Op op_a, Op op_f, ConstMatrixView<T> a, index_t first, index_t count,
                    T beta, MatrixView<T> c) const {
    if (c.empty()) return;
    if constexpr (splits_products<T, B>) {
      if (splits()) {
        auto frame = ctx.frame();
        const SplitMatrix other = split<B>(ctx, frame, a, terms_.count);
        return split_gemm<B>(ctx, op_a, op_f, other, terms_.block(0, first, rank(), count), beta, c);
      }
    }
    B::template gemm<T>(ctx, op_a, op_f, T(1), a, factor().block(0, first, rank(), count), beta, c);
  }

 private:
  bool splits() const { return terms_.count > 0 && has_factor(); }

  const BasisSide<T, B>& side_;
  RotationPrecision precision_;
  SplitMatrix terms_;
};

}  // namespace detail

}  // namespace sparsegrad::SPARSEGRAD_ABI
