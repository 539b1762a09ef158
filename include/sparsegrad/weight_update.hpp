// The way back: W += V D U^T for an update D on the support of a sparse gradient.
#pragma once

#include <algorithm>
#include <utility>

#include "plan.hpp"
#include "sparse_gradient.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad {

/// Which index of a stored weight runs over the outputs.
enum class WeightLayout {
  out_in,  ///< W [out, in], y = x W^T + b
  in_out,  ///< W [in, out], y = x W + b
};

namespace detail {

/// A dense update D [r, c], rows and columns on the sides `rows` and `cols`: W += R D C^T.
template <class T, Backend B>
void expand_dense(typename B::Context& ctx, const BasisSide<T, B>& rows, const BasisSide<T, B>& cols,
                  ConstMatrixView<T> d, const CostModel& model, MatrixView<T> w) {
  if (!rows.rotates() && !cols.rotates()) return B::template add<T>(ctx, T(1), d, w);
  if (!rows.rotates()) return cols.expand_columns(ctx, d, T(1), w);
  if (!cols.rotates()) return rows.expand_rows(ctx, d, T(1), w);
  const SideShape r = shape_of(rows);
  const SideShape c = shape_of(cols);
  auto frame = ctx.frame();
  if (model.expands_columns_first(r, c)) {
    const MatrixView<T> half = frame.template matrix<T>(r.rank, c.extent);
    cols.expand_columns(ctx, d, T(0), half);
    rows.expand_rows(ctx, half, T(1), w);
  } else {
    const MatrixView<T> half = frame.template matrix<T>(r.extent, c.rank);
    rows.expand_rows(ctx, d, T(0), half);
    cols.expand_columns(ctx, half, T(1), w);
  }
}

/// Half of the way back of a sparse update, whose entries stand in groups of one row (or column) of D: panel.row(s) =
/// the group's entries expanded along the other side.
template <class T, Backend B>
void expand_groups(typename B::Context& ctx, const GroupedSupport& groups, const T* values, index_t count,
                   const BasisSide<T, B>& along, MatrixView<T> panel) {
  B::template zero<T>(ctx, panel.data, panel.size());
  if (!along.has_factor()) {
    B::template scatter_add<T>(ctx, groups.slot, groups.other, values, count, panel);
    if (along.rotates()) {
      B::template hadamard<T>(ctx, along.signs(), true, TransformSide::rows, panel);
    }
  } else {
    B::template expand_rows<T>(ctx, groups.slot, groups.other, values, count, along.factor(), panel);
  }
}

/// W [rows.extent, cols.extent] += R D C^T, where D's position index i * d.cols() + j has its row i on the side
/// `rows`, or, with `swapped`, on the side `cols` (a weight stored [in, out]).
template <class T, Backend B>
void expand_sparse(typename B::Context& ctx, const BasisSide<T, B>& rows, const BasisSide<T, B>& cols,
                   bool swapped, const SparseGradient<T, B>& d, const CostModel& model, MatrixView<T> w) {
  const index_t count = d.count();
  if (count == 0) return;
  auto frame = ctx.frame();

  // Only few groups: the panel of the way back is as tall as the rows (or columns) that D uses.
  const auto group = [&](bool by_cols_of_w, T* ordered) {
    const bool columns_of_d = by_cols_of_w != swapped;
    const index_t most = std::min(count, columns_of_d ? d.cols() : d.rows());
    GroupedSupport g{frame.template take<stored_index_t>(count), frame.template take<stored_index_t>(count),
                     frame.template take<stored_index_t>(count), frame.template take<stored_index_t>(most),
                     0};
    g.groups = B::group_support(ctx, d.indices(), count, d.rows(), d.cols(), columns_of_d, g.slot, g.other,
                                g.order, g.list);
    B::template gather<T>(ctx, d.values(), g.order, count, ordered);
    return g;
  };
  const auto multiply = [&](const BasisSide<T, B>& side, const GroupedSupport& g, bool panel_first,
                            MatrixView<const T> panel) {
    const MatrixView<T> used = frame.template matrix<T>(g.groups, side.extent());
    B::template gather_rows<T>(ctx, side.factor(), g.list, g.groups, used);
    if (panel_first) {
      B::template gemm<T>(ctx, Op::transpose, Op::none, T(1), panel, used, T(1), w);
    } else {
      B::template gemm<T>(ctx, Op::transpose, Op::none, T(1), used, panel, T(1), w);
    }
  };

  T* ordered = frame.template take<T>(count);
  if (!rows.has_factor() && !cols.has_factor() && (rows.rotates() || cols.rotates())) {
    // A fast transform and nothing dense: through one matrix of the weight's size.
    const MatrixView<T> full = frame.template matrix<T>(w.rows, w.cols);
    B::template zero<T>(ctx, full.data, full.size());
    if (swapped) {
      const GroupedSupport g = group(false, ordered);
      stored_index_t* row = frame.template take<stored_index_t>(count);
      B::template gather<stored_index_t>(ctx, g.list, g.slot, count, row);
      B::template scatter_add<T>(ctx, row, g.other, ordered, count, full);
    } else {
      B::template scatter<T>(ctx, d.values(), d.indices(), count, full.data);
    }
    if (cols.rotates()) B::template hadamard<T>(ctx, cols.signs(), true, TransformSide::rows, full);
    if (rows.rotates()) B::template hadamard<T>(ctx, rows.signs(), true, TransformSide::columns, full);
    return B::template add<T>(ctx, T(1), full, w);
  }
  if (!rows.rotates()) {
    // The entries of a row of D go straight into the same row of W.
    const GroupedSupport g = group(false, ordered);
    stored_index_t* row = frame.template take<stored_index_t>(count);
    B::template gather<stored_index_t>(ctx, g.list, g.slot, count, row);
    if (!cols.rotates()) return B::template scatter_add<T>(ctx, row, g.other, ordered, count, w);
    return B::template expand_rows<T>(ctx, row, g.other, ordered, count, cols.factor(), w);
  }
  if (!cols.rotates()) {
    const GroupedSupport g = group(true, ordered);
    const MatrixView<T> panel = frame.template matrix<T>(g.groups, w.rows);
    expand_groups<T, B>(ctx, g, ordered, count, rows, panel);
    return B::template add_columns<T>(ctx, panel, g.list, w);
  }

  // Both sides rotated: one sparsely, the other by a dense product.
  const bool columns = model.sparse_expansion_along(shape_of(rows), shape_of(cols), count) <
                       model.sparse_expansion_along(shape_of(cols), shape_of(rows), count);
  const GroupedSupport g = group(columns, ordered);
  const BasisSide<T, B>& sparse_side = columns ? rows : cols;
  const MatrixView<T> panel = frame.template matrix<T>(g.groups, sparse_side.extent());
  expand_groups<T, B>(ctx, g, ordered, count, sparse_side, panel);
  multiply(columns ? cols : rows, g, columns, panel);
}

/// W += V D U^T for a dense D [r, c].
template <class T, Backend B>
void expand_dense(typename B::Context& ctx, const TuckerBasis<T, B>& basis, MatrixView<const T> d,
                  WeightLayout layout, const CostModel& model, MatrixView<T> w) {
  if (layout == WeightLayout::out_in) {
    return expand_dense<T, B>(ctx, basis.out(), basis.in(), d, model, w);
  }
  auto frame = ctx.frame();
  const MatrixView<T> turned = frame.template matrix<T>(d.cols, d.rows);
  B::template transpose<T>(ctx, d, turned);
  expand_dense<T, B>(ctx, basis.in(), basis.out(), MatrixView<const T>(turned), model, w);
}

}  // namespace detail

/// W += V D U^T in place, for W stored [out, in] or [in, out] (then W += U D^T V^T), V [out, r], U [in, c] and D [r, c]
/// sparse or dense. Throws ShapeError, before anything has changed. Of a sparse D only the rows and columns that it uses take part in products, or D is written out as a dense matrix:
/// what `model` finds cheapest. Source: Table 2 of the paper, seen from the original space.
template <class T, Backend B>
void add_expanded(typename B::Context& ctx, const TuckerBasis<T, B>& basis, const SparseGradient<T, B>& d,
                  WeightLayout layout, MatrixView<T> w, const CostModel& model = {}) {
  require_shape("update D", d.rows(), d.cols(), basis.rows(), basis.cols(), "rows x cols of the core");
  const bool swapped = layout == WeightLayout::in_out;
  const BasisSide<T, B>& rows = swapped ? basis.in() : basis.out();
  const BasisSide<T, B>& cols = swapped ? basis.out() : basis.in();
  require_shape("weight", w.rows, w.cols, rows.extent(), cols.extent(),
                swapped ? "in x out of the basis" : "out x in of the basis");
  const bool rotated = rows.rotates() || cols.rotates();
  const bool densify =
      rotated && !d.dense() &&
      (static_cast<double>(d.count()) > B::dense_above_density * static_cast<double>(d.size()) ||
       expands_dense(detail::shape_of(rows), detail::shape_of(cols), d.count(), model));
  if (!d.dense() && !densify) return detail::expand_sparse<T, B>(ctx, rows, cols, swapped, d, model, w);

  auto frame = ctx.frame();
  MatrixView<const T> dense(d.values(), d.rows(), d.cols());
  if (densify) {
    const MatrixView<T> filled = frame.template matrix<T>(d.rows(), d.cols());
    B::template zero<T>(ctx, filled.data, filled.size());
    B::template scatter<T>(ctx, d.values(), d.indices(), d.count(), filled.data);
    dense = filled;
  }
  detail::expand_dense<T, B>(ctx, basis, dense, layout, model, w);
}

/// Bytes of scratch memory that add_expanded needs at most, the primitives' own included.
template <class T, Backend B>
index_t add_expanded_scratch(const typename B::Context& ctx, const TuckerBasis<T, B>& basis,
                             index_t capacity) {
  const index_t wide = std::max(basis.out_extent(), basis.in_extent());
  const index_t weight = basis.out_extent() * basis.in_extent();
  const index_t element = static_cast<index_t>(sizeof(T));
  return 3 * weight * element + wide * wide * element +
         capacity * (element + 4 * static_cast<index_t>(sizeof(stored_index_t))) +
         B::template scratch_bound<T>(ctx, std::max(weight, wide * wide));
}

}  // namespace sparsegrad
