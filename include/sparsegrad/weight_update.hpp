// The weight's update: W <- (1 - decay) W + V D U^T for an update D on the support of a sparse
// gradient.
#pragma once

#include <algorithm>
#include <utility>

#include "basis_rotations.hpp"
#include "core/number.hpp"
#include "plan.hpp"
#include "sparse_gradient.hpp"
#include "trained_weight.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

/// A dense update D [r, c], rows and columns on the sides `rows` and `cols`: W += R D C^T.
template <class T, Backend B>
void expand_dense(typename B::Context& ctx, const RotationSide<T, B>& rows, const RotationSide<T, B>& cols,
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

/// Half of the expansion of a sparse update, whose entries stand in groups of one row (or column)
/// of D: panel.row(s) = the group's entries expanded along the other side.
template <class T, Backend B>
void expand_groups(typename B::Context& ctx, const GroupedSupport& groups, const T* values, index_t count,
                   const RotationSide<T, B>& along, MatrixView<T> panel) {
  B::template zero<T>(ctx, panel.data, panel.size());
  if (!along.has_factor()) {
    B::template scatter_add<T>(ctx, groups.group, groups.other, values, count, panel);
    if (along.rotates()) {
      B::template hadamard<T>(ctx, along.signs(), true, TransformSide::rows, panel);
    }
  } else {
    B::template expand_rows<T>(ctx, groups.group, groups.other, values, count, along.factor(), panel);
  }
}

/// W [rows.extent, cols.extent] += R D C^T, where D's position index i * d.cols() + j has its row i
/// on the side `rows`, or, with `swapped`, on the side `cols` (a weight stored [in, out]).
template <class T, Backend B>
void expand_sparse(typename B::Context& ctx, const RotationSide<T, B>& rows, const RotationSide<T, B>& cols,
                   bool swapped, const SparseGradient<T, B>& d, const CostModel& model, MatrixView<T> w) {
  const index_t count = d.count();
  if (count == 0) return;
  auto frame = ctx.frame();

  // Only few groups: the panel is as tall as the rows (or columns) that D uses.
  const auto group = [&](bool by_cols_of_w, T* ordered) {
    const bool columns_of_d = by_cols_of_w != swapped;
    const index_t most = (std::min)(count, columns_of_d ? d.cols() : d.rows());
    GroupedSupport g{frame.template take<stored_index_t>(count), frame.template take<stored_index_t>(count),
                     frame.template take<stored_index_t>(count), frame.template take<stored_index_t>(most),
                     0};
    g.groups = B::group_support(ctx, d.indices(), count, d.rows(), d.cols(), columns_of_d, g.group, g.other,
                                g.order, g.list);
    B::template gather<T>(ctx, d.values(), g.order, count, ordered);
    return g;
  };
  const auto multiply = [&](const RotationSide<T, B>& side, const GroupedSupport& g, bool panel_first,
                            MatrixView<const T> panel) {
    const MatrixView<T> used = frame.template matrix<T>(g.groups, side.extent());
    B::template gather_rows<T>(ctx, side.factor(), g.list, g.groups, used);
    rotation_gemm<T, B>(ctx, side.precision(), Op::transpose, Op::none, panel_first ? panel : used,
                        panel_first ? used : panel, T(1), w);
  };

  T* ordered = frame.template take<T>(count);
  if (!rows.has_factor() && !cols.has_factor() && (rows.rotates() || cols.rotates())) {
    // A fast transform and nothing dense: through one matrix of the weight's size.
    const MatrixView<T> full = frame.template matrix<T>(w.rows, w.cols);
    B::template zero<T>(ctx, full.data, full.size());
    if (swapped) {
      const GroupedSupport g = group(false, ordered);
      stored_index_t* row = frame.template take<stored_index_t>(count);
      B::template gather<stored_index_t>(ctx, g.list, g.group, count, row);
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
    B::template gather<stored_index_t>(ctx, g.list, g.group, count, row);
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
  const RotationSide<T, B>& sparse_side = columns ? rows : cols;
  const MatrixView<T> panel = frame.template matrix<T>(g.groups, sparse_side.extent());
  expand_groups<T, B>(ctx, g, ordered, count, sparse_side, panel);
  multiply(columns ? cols : rows, g, columns, panel);
}

/// W += V D U^T for a dense D [r, c].
template <class T, Backend B>
void expand_dense(typename B::Context& ctx, const BasisRotations<T, B>& basis, MatrixView<const T> d,
                  WeightLayout layout, const CostModel& model, MatrixView<T> w) {
  if (layout == WeightLayout::out_in) {
    return expand_dense<T, B>(ctx, basis.out, basis.in, d, model, w);
  }
  auto frame = ctx.frame();
  const MatrixView<T> turned = frame.template matrix<T>(d.cols, d.rows);
  B::template transpose<T>(ctx, d, turned);
  expand_dense<T, B>(ctx, basis.in, basis.out, MatrixView<const T>(turned), model, w);
}

}  // namespace detail

/// W += V D U^T in place, for W stored [out, in] or [in, out] (then W += U D^T V^T), V [out, r], U
/// [in, c] and D [r, c] sparse or dense. Throws ShapeError, or ValueError for a cost model out of
/// range, before anything has changed. Products of two matrices are taken with `rotations`, where
/// that is available. Of a sparse D only the rows and columns that it uses take part in products, or D is written out as a
/// dense matrix: what `model` finds cheapest. Source: Table 2 of the paper, seen from the original
/// space.
template <class T, Backend B>
void add_expanded(typename B::Context& ctx, const TuckerBasis<T, B>& basis, const SparseGradient<T, B>& d,
                  WeightLayout layout, MatrixView<T> w, const CostModel& model = {},
                  RotationPrecision rotations = RotationPrecision::full) {
  require_shape("update D", d.rows(), d.cols(), basis.rows(), basis.cols(), "rows x cols of the core");
  const bool swapped = layout == WeightLayout::in_out;
  const detail::BasisRotations<T, B> sides(ctx, basis, available_rotations<T, B>(ctx, rotations));
  const detail::RotationSide<T, B>& rows = swapped ? sides.in : sides.out;
  const detail::RotationSide<T, B>& cols = swapped ? sides.out : sides.in;
  require_shape("weight", w.rows, w.cols, rows.extent(), cols.extent(),
                swapped ? "in x out of the basis" : "out x in of the basis");
  model.require_valid();
  const bool rotated = rows.rotates() || cols.rotates();
  const bool densify =
      rotated && !d.dense() &&
      (static_cast<double>(d.count()) > B::dense_above_density * static_cast<double>(d.size()) ||
       expands_dense(shape_of(rows), shape_of(cols), d.count(), model));
  if (!d.dense() && !densify) return detail::expand_sparse<T, B>(ctx, rows, cols, swapped, d, model, w);

  auto frame = ctx.frame();
  MatrixView<const T> dense(d.values(), d.rows(), d.cols());
  if (densify) {
    const MatrixView<T> filled = frame.template matrix<T>(d.rows(), d.cols());
    B::template zero<T>(ctx, filled.data, filled.size());
    B::template scatter<T>(ctx, d.values(), d.indices(), d.count(), filled.data);
    dense = filled;
  }
  detail::expand_dense<T, B>(ctx, sides, dense, layout, model, w);
}

/// Bytes of scratch memory that add_expanded needs at most, the primitives' own included.
template <class T, Backend B>
index_t add_expanded_scratch(const typename B::Context& ctx, const TuckerBasis<T, B>& basis, index_t capacity,
                             RotationPrecision rotations = RotationPrecision::full) {
  const index_t wide = (std::max)(basis.out_extent(), basis.in_extent());
  const index_t rank = (std::max)(basis.rows(), basis.cols());
  const index_t core = basis.rows() * basis.cols();
  const index_t element = static_cast<index_t>(sizeof(T));
  const bool rotates = basis.out().rotates() || basis.in().rotates();
  const bool transforms = rotates && !basis.out().has_factor() && !basis.in().has_factor();
  // Sparse: a panel and the factor's rows beside it, or the whole matrix where nothing is dense.
  const index_t panel = !rotates     ? 0
                        : transforms ? basis.out_extent() * basis.in_extent()
                                     : 2 * (std::min)(capacity, rank) * wide;
  // Dense: D written out and turned, half of its expansion, and what a Hadamard side takes at a time.
  const index_t half = !rotates ? core : 2 * core + (std::max)(basis.rows(), basis.cols()) * wide;
  const index_t chunk = rotates ? (std::max)(wide, index_t{1} << 20) : 0;
  return (panel + half + chunk) * element +
         capacity * (element + 5 * static_cast<index_t>(sizeof(stored_index_t))) +
         detail::split_bytes((std::max)(panel, half), bfloat16_terms(rotations)) + index_t{4096} +
         B::template scratch_bound<T>(ctx, (std::max)({panel, half, capacity, wide * rank}));
}

/// Throws ValueError unless 0 <= decay <= 1, decay being learning rate times weight decay.
inline void require_decay(double decay) {
  if (is_finite(decay) && decay >= 0 && decay <= 1) return;
  throw ValueError("decay is " + number_text(decay) + ", expected 0 <= learning rate * weight decay <= 1");
}

/// W <- (1 - decay) W + V D U^T in place, D [r, c] carrying -lr. A W of 16 bits is rounded anew
/// from its master, which is what changes. Throws ShapeError, ValueError unless 0 <= decay <= 1;
/// nothing has changed then. (Without scratch memory of `add_expanded_scratch` bytes reserved,
/// memory may run out halfway.)
template <class T, Backend B>
void update_weight(typename B::Context& ctx, const TrainedWeight<T>& w,
                   const TuckerBasis<compute_t<T>, B>& basis, const SparseGradient<compute_t<T>, B>& d,
                   double decay = 0, const CostModel& model = {},
                   RotationPrecision rotations = RotationPrecision::full) {
  using C = compute_t<T>;
  require_shape("update D", d.rows(), d.cols(), basis.rows(), basis.cols(), "rows x cols of the core");
  require_decay(decay);
  model.require_valid();
  if (decay != 0) B::template scale<C>(ctx, static_cast<C>(1 - decay), w.master);
  add_expanded<C, B>(ctx, basis, d, w.layout, w.master, model, rotations);
  w.template round<B>(ctx);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
