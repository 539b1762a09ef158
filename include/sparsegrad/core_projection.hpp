// Projections of a finished weight gradient: V^T dW U in place, and of a dW that belongs to
// somebody else.
#pragma once

#include <algorithm>
#include <utility>

#include "basis_rotations.hpp"
#include "plan.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Projects the sides that the plan left to the end: from `sum` to `core`, both at the front of the
/// same memory.
template <class C, Backend B>
void project_in_place(typename B::Context& ctx, const BasisRotations<C, B>& basis, const Plan& plan,
                      const CostModel& model, MatrixView<C> sum, MatrixView<C> core) {
  const RotationSide<C, B>& out = basis.out;
  const RotationSide<C, B>& in = basis.in;
  bool out_left = plan.out == SideOrder::multiply_first && out.rotates();
  bool in_left = plan.in == SideOrder::multiply_first && in.rotates();
  // A Hadamard transform works in place; it comes first unless the other side makes its matrix
  // smaller.
  if (in_left && !in.has_factor() && (!out_left || out.rank() == out.extent())) {
    B::template hadamard<C>(ctx, in.signs(), false, TransformSide::rows, sum);
    in_left = false;
  }
  if (out_left && !out.has_factor() && (!in_left || in.rank() == in.extent())) {
    B::template hadamard<C>(ctx, out.signs(), false, TransformSide::columns, sum);
    out_left = false;
  }
  if (!out_left && !in_left) return;
  auto frame = ctx.frame();
  if (out_left && in_left) {
    if (model.projects_columns_first(shape_of(out), shape_of(in))) {
      const MatrixView<C> half = frame.template matrix<C>(sum.rows, core.cols);
      in.project_columns(ctx, sum, half);
      out.project_rows(ctx, half, core);
    } else {
      const MatrixView<C> half = frame.template matrix<C>(core.rows, sum.cols);
      out.project_rows(ctx, sum, half);
      in.project_columns(ctx, half, core);
    }
    return;
  }
  const MatrixView<C> copy = frame.template matrix<C>(sum.rows, sum.cols);
  B::template copy<C>(ctx, sum, copy);
  if (out_left) {
    out.project_rows(ctx, copy, core);
  } else {
    in.project_columns(ctx, copy, core);
  }
}

/// A block of rows of a gradient as it is stored, in C. One of 16 bits is widened into scratch
/// memory.
template <class C, Backend B, class S, class Frame>
MatrixView<const C> widened(typename B::Context& ctx, Frame& frame, MatrixView<const S> block) {
  if constexpr (std::is_same_v<C, S>) {
    return block;
  } else {
    const MatrixView<C> wide = frame.template matrix<C>(block.rows, block.cols);
    B::template widen<S>(ctx, block, wide);
    return wide;
  }
}

/// Rows of a stored gradient that are taken at a time: all of one in C, as many as fit 1 MiB of one
/// that must be widened, so that the widened block is still in the cache when the product reads it.
template <class C, class S>
index_t rows_at_a_time(MatrixView<const S> g) {
  if (std::is_same_v<C, S> || g.rows == 0) return std::max<index_t>(g.rows, 1);
  const index_t row = std::max<index_t>(g.cols, 1) * static_cast<index_t>(sizeof(C));
  return std::clamp<index_t>((index_t{1} << 20) / row, 1, g.rows);
}

/// The factor's side over the rows of a stored gradient S [n, t]: Y [r, t] = F S, or, with
/// `turned`, Y [t, r] = S^T F^T.
template <class C, Backend B, class S>
void project_stored_rows(typename B::Context& ctx, const RotationSide<C, B>& side, MatrixView<const S> s,
                         bool turned, MatrixView<C> y) {
  const index_t step = rows_at_a_time<C>(s);
  for (index_t first = 0; first < s.rows; first += step) {
    const index_t rows = (std::min)(step, s.rows - first);
    auto frame = ctx.frame();
    const MatrixView<const C> part = widened<C, B, S>(ctx, frame, s.block(first, 0, rows, s.cols));
    const C beta = first == 0 ? C(0) : C(1);
    if (turned) {
      side.times_factor(ctx, Op::transpose, Op::transpose, part, first, rows, beta, y);
    } else {
      side.factor_times(ctx, Op::none, Op::none, part, first, rows, beta, y);
    }
  }
}

/// The factor's side over the columns of a stored gradient S [t, n]: Y [t, r] = S F^T, or, with
/// `turned`, Y [r, t] = F S^T.
template <class C, Backend B, class S>
void project_stored_columns(typename B::Context& ctx, const RotationSide<C, B>& side, MatrixView<const S> s,
                            bool turned, MatrixView<C> y) {
  const index_t step = rows_at_a_time<C>(s);
  for (index_t first = 0; first < s.rows; first += step) {
    const index_t rows = (std::min)(step, s.rows - first);
    auto frame = ctx.frame();
    const MatrixView<const C> part = widened<C, B, S>(ctx, frame, s.block(first, 0, rows, s.cols));
    if (turned) {
      side.factor_times(ctx, Op::none, Op::transpose, part, 0, side.extent(), C(0),
                        y.block(0, first, y.rows, rows));
    } else {
      side.times_factor(ctx, Op::none, Op::transpose, part, 0, side.extent(), C(0),
                        y.block(first, 0, rows, y.cols));
    }
  }
}

/// dW [out, in] in C from a stored one: widened, turned where its rows are the inputs.
template <class C, Backend B, class S>
void copy_stored(typename B::Context& ctx, MatrixView<const S> s, bool turned, MatrixView<C> dw) {
  const index_t step = rows_at_a_time<C>(s);
  for (index_t first = 0; first < s.rows; first += step) {
    const index_t rows = (std::min)(step, s.rows - first);
    auto frame = ctx.frame();
    const MatrixView<const C> part = widened<C, B, S>(ctx, frame, s.block(first, 0, rows, s.cols));
    if (turned) {
      B::template transpose<C>(ctx, part, dw.block(0, first, dw.rows, rows));
    } else {
      B::template copy<C>(ctx, part, dw.block(first, 0, rows, dw.cols));
    }
  }
}

/// core [r, c] = V^T dW U of a gradient that is only read. S is dW [out, in], or dW^T [in, out]
/// where `turned`. Passes over S once, in the first product; only a side without a factor
/// (identity, Hadamard) that comes first copies it.
template <class C, Backend B, class S>
void project_stored(typename B::Context& ctx, const BasisRotations<C, B>& basis, const CostModel& model,
                    MatrixView<const S> s, bool turned, MatrixView<C> core) {
  const RotationSide<C, B>& out = basis.out;
  const RotationSide<C, B>& in = basis.in;
  const auto project_in = [&](MatrixView<C> y) {  // Y [out, c] = dW U
    turned ? project_stored_rows<C, B, S>(ctx, in, s, true, y)
           : project_stored_columns<C, B, S>(ctx, in, s, false, y);
  };
  const auto project_out = [&](MatrixView<C> y) {  // Y [r, in] = V^T dW
    turned ? project_stored_columns<C, B, S>(ctx, out, s, true, y)
           : project_stored_rows<C, B, S>(ctx, out, s, false, y);
  };
  auto frame = ctx.frame();
  if (in.has_factor() && (!out.has_factor() || model.projects_columns_first(shape_of(out), shape_of(in)))) {
    if (!out.rotates()) return project_in(core);
    const MatrixView<C> half = frame.template matrix<C>(out.extent(), in.rank());
    project_in(half);
    return out.project_rows(ctx, half, core);
  }
  if (out.has_factor()) {
    if (!in.rotates()) return project_out(core);
    const MatrixView<C> half = frame.template matrix<C>(out.rank(), in.extent());
    project_out(half);
    return in.project_columns(ctx, half, core);
  }
  copy_stored<C, B, S>(ctx, s, turned, core);
  if (in.rotates()) B::template hadamard<C>(ctx, in.signs(), false, TransformSide::rows, core);
  if (out.rotates()) B::template hadamard<C>(ctx, out.signs(), false, TransformSide::columns, core);
}

/// Tokens X [t, n] in the basis of a side, X U [t, rank] in the frame's memory; X itself where the
/// side does not rotate.
template <class T, Backend B, class Frame, class Side>
MatrixView<const T> projected_tokens(typename B::Context& ctx, Frame& frame, const Side& side,
                                     MatrixView<const T> x, index_t rank) {
  if (!side.rotates()) return x;
  const MatrixView<T> y = frame.template matrix<T>(x.rows, rank);
  side.project_columns(ctx, x, y);
  return y;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
