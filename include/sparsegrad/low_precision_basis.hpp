// LowPrecisionBasis: a basis for products with tokens in bfloat16 or float16.
#pragma once

#include <algorithm>

#include "basis_side.hpp"
#include "core/low_precision.hpp"
#include "core/wait.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// One side's U [n, r] with its stored factor rounded to T, so that both operands of a product are
/// T's.
///
/// It refers to the side, which must outlive it. A Hadamard side has no factor: its tokens pass
/// through scratch in C = compute_t<T>.
template <class T, Backend B>
class LowPrecisionSide {
 public:
  /// The type of sums.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;

  /// Rounds the factor of `side`, if it has one.
  LowPrecisionSide(Context& ctx, const BasisSide<C, B>& side) : side_(side) {
    if (!side.has_factor()) return;
    factor_.resize(ctx, side.rank() * side.extent());
    B::template round_to<T>(ctx, side.factor(), factor_.matrix(side.rank(), side.extent()));
  }

  /// U^T [r, n], rounded; empty where there is no factor.
  MatrixView<const T> factor() const {
    if (!side_.has_factor()) return {};
    return factor_.matrix(side_.rank(), side_.extent());
  }
  /// Whether U is other than the identity.
  bool rotates() const { return side_.rotates(); }
  /// Bytes of backend memory held.
  index_t bytes() const { return factor_.bytes(); }
  /// Elements of C that a product with `rows` tokens takes of scratch.
  index_t scratch_elements(index_t rows) const {
    return side_.has_factor() || !rotates() ? 0 : 2 * step(rows) * side_.extent();
  }

  /// Projects tokens: Y = A U, A [t, n], Y [t, r]. Sums in C, Y rounded once. Throws ShapeError.
  void project_columns(Context& ctx, ConstMatrixView<T> a, MatrixView<T> y) const {
    require_shape("A", a.rows, a.cols, a.rows, side_.extent(), "rows x extent of the side");
    require_shape("A U", y.rows, y.cols, a.rows, side_.rank(), "rows x rank of the side");
    if (y.empty()) return;
    if (side_.has_factor()) {
      return B::template gemm<T>(ctx, Op::none, Op::transpose, C(1), a, factor(), C(0), y);
    }
    if (!rotates()) return B::template copy<T>(ctx, a, y);
    transform(ctx, a, false, C(0), y);
  }

  /// Expands tokens: A = Y U^T + beta A, Y [t, r], A [t, n]. Sums in C, A rounded once. beta = 0
  /// overwrites A, NaN included. Throws ShapeError.
  void expand_columns(Context& ctx, ConstMatrixView<T> y, C beta, MatrixView<T> a) const {
    require_shape("A", a.rows, a.cols, a.rows, side_.extent(), "rows x extent of the side");
    require_shape("Y", y.rows, y.cols, a.rows, side_.rank(), "rows x rank of the side");
    if (a.empty()) return;
    if (side_.has_factor()) {
      return B::template gemm<T>(ctx, Op::none, Op::none, C(1), y, factor(), beta, a);
    }
    transform(ctx, y, true, beta, a);
  }

 private:
  /// Elements that are transformed at a time: bounds the scratch memory.
  static constexpr index_t chunk = index_t{1} << 22;

  index_t step(index_t rows) const {
    return std::clamp<index_t>(chunk / std::max<index_t>(side_.extent(), 1), 1, std::max<index_t>(rows, 1));
  }

  /// B = (A H^T, inverse: A H) + beta B, row by row; without rotation H = I.
  void transform(Context& ctx, MatrixView<const T> a, bool inverse, C beta, MatrixView<T> b) const {
    const index_t n = side_.extent();
    const index_t most = step(a.rows);
    auto frame = ctx.frame();
    const MatrixView<C> memory = frame.template matrix<C>(most, n);
    const MatrixView<C> old_memory = frame.template matrix<C>(beta != C(0) ? most : 0, n);
    for (index_t first = 0; first < a.rows; first += most) {
      const index_t rows = (std::min)(most, a.rows - first);
      const MatrixView<C> part = memory.block(0, 0, rows, n);
      const MatrixView<T> target = b.block(first, 0, rows, n);
      B::template widen<T>(ctx, a.block(first, 0, rows, n), part);
      if (rotates()) {
        B::template hadamard<C>(ctx, side_.signs(), inverse, TransformSide::rows, part);
      }
      if (beta != C(0)) {
        const MatrixView<C> old = old_memory.block(0, 0, rows, n);
        B::template widen<T>(ctx, target, old);
        B::template add<C>(ctx, beta, old, part);
      }
      B::template round_to<T>(ctx, part, target);
    }
  }

  const BasisSide<C, B>& side_;
  Buffer<T, B> factor_;  ///< U^T [r, n], rounded
};

/// Both sides of a basis with factors in a low-precision type T; made by
/// TuckerBasis::low_precision.
template <class T, Backend B>
class LowPrecisionBasis {
 public:
  /// One side of the basis.
  using Side = LowPrecisionSide<T, B>;

  /// Rounds the factors of both sides, which must outlive it. Finished when it returns, for other
  /// contexts too.
  LowPrecisionBasis(typename B::Context& ctx, const BasisSide<compute_t<T>, B>& out,
                    const BasisSide<compute_t<T>, B>& in)
      : out_(ctx, out), in_(ctx, in) {
    wait_for(ctx);  // layers of other contexts read it next
  }

  /// The out side, V.
  const Side& out() const { return out_; }
  /// The in side, U.
  const Side& in() const { return in_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return out_.bytes() + in_.bytes(); }

 private:
  Side out_;
  Side in_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
