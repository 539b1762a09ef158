// Plans: the orders in which the core gradient V^T dY^T X U can be computed, and the cost model that picks one.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "basis_side.hpp"
#include "core/config.hpp"

namespace sparsegrad {

/// When a side is projected.
enum class SideOrder {
  project_first,   ///< a token at a time: X U or dY V enters the product
  multiply_first,  ///< once a step: the finished product is projected
};

/// One order a side. All plans give the same core up to rounding. A side without rotation has nothing to
/// project; its order is multiply_first.
struct Plan {
  SideOrder out = SideOrder::multiply_first;
  SideOrder in = SideOrder::multiply_first;
  bool operator==(const Plan&) const = default;
};

/// "out: multiply_first, in: project_first"
inline std::string to_string(const Plan& plan) {
  const auto name = [](SideOrder order) {
    return order == SideOrder::project_first ? "project_first" : "multiply_first";
  };
  return std::string("out: ") + name(plan.out) + ", in: " + name(plan.in);
}

/// One side of a layer as the cost model sees it.
struct SideShape {
  SideKind kind = SideKind::identity;
  index_t extent = 0;
  index_t rank = 0;
};

/// The shape of a side.
template <class T, Backend B>
SideShape shape_of(const BasisSide<T, B>& side) {
  return {side.kind(), side.extent(), side.rank()};
}

/// Work between two optimizer steps, as far as the choice of a plan goes: any number of tokens is computed right, but
/// an engine whose batches are not near the default should say so (LinearOptions::workload, set_plan).
struct Workload {
  index_t tokens = 2048;      ///< of one micro-batch
  index_t micro_batches = 1;  ///< before one optimizer step
};

/// Cost of the orders in multiply-adds of a dense product. The weights say how many such multiply-adds another
/// operation takes the time of; the defaults were measured on two cores of an AMD Zen 3 with OpenBLAS (sparsegrad-bench
/// calibrate measures those of another machine).
struct CostModel {
  double transform_entry = 80;  ///< a fast transform, for each entry of the matrix
  double sparse_entry = 8;      ///< a multiply-add of a sparse row expansion, with what it moves

  /// Projecting `vectors` vectors of a side's extent.
  double projection(const SideShape& side, index_t vectors) const {
    const auto n = static_cast<double>(side.extent);
    const auto v = static_cast<double>(vectors);
    if (side.kind == SideKind::identity) return 0;
    if (side.kind == SideKind::hadamard) return transform_entry * n * v;
    return n * static_cast<double>(side.rank) * v;
  }

  /// R^T A C, A [rows.extent, cols.extent], by A C first, or by R^T A first.
  double columns_then_rows(const SideShape& rows, const SideShape& cols) const {
    return projection(cols, rows.extent) + projection(rows, cols.rank);
  }
  double rows_then_columns(const SideShape& rows, const SideShape& cols) const {
    return projection(rows, cols.extent) + projection(cols, rows.rank);
  }
  /// The order of two projections, and, each being the other backwards, of the two expansions R D C^T.
  bool projects_columns_first(const SideShape& rows, const SideShape& cols) const {
    return columns_then_rows(rows, cols) <= rows_then_columns(rows, cols);
  }
  bool expands_columns_first(const SideShape& rows, const SideShape& cols) const {
    return rows_then_columns(rows, cols) <= columns_then_rows(rows, cols);
  }

  /// W [rows, cols] += R D C^T with D as a dense matrix.
  double dense_expansion(const SideShape& rows, const SideShape& cols) const {
    const double halves = std::fmin(columns_then_rows(rows, cols), rows_then_columns(rows, cols));
    return halves + moved(rows.extent, cols.extent);
  }

  /// The same with the `count` entries of D one by one: along the only rotated side, or along the better of two.
  double sparse_expansion(const SideShape& rows, const SideShape& cols, index_t count) const {
    if (!stored(rows) && !stored(cols)) return 0;  // no product to save
    if (rows.kind == SideKind::identity) return entries(cols, count, rows.extent);
    if (cols.kind == SideKind::identity) {
      // Columns of W come by way of a panel.
      return entries(rows, count, cols.extent) + 7 * moved(std::min(count, cols.extent), rows.extent);
    }
    return moved(rows.extent, cols.extent) +
           std::fmin(sparse_expansion_along(rows, cols, count), sparse_expansion_along(cols, rows, count));
  }

  /// Both sides rotated: the entries along `side`, then a dense product with the stored side `other`.
  double sparse_expansion_along(const SideShape& side, const SideShape& other, index_t count) const {
    if (!stored(other)) return std::numeric_limits<double>::max();
    const auto groups = static_cast<double>(std::min(count, other.rank));
    return entries(side, count, other.rank) +
           groups * static_cast<double>(side.extent) * static_cast<double>(other.extent);
  }

  /// Cost of the weight gradient of one optimizer step under `plan`: product, projections of every micro-batch, and
  /// what is left to project at the end. Forward and dX are the same under every plan.
  double step(const Plan& plan, const SideShape& out, const SideShape& in, const Workload& work) const {
    const bool out_first = plan.out == SideOrder::project_first;
    const bool in_first = plan.in == SideOrder::project_first;
    const index_t rows = out_first ? out.rank : out.extent;
    const index_t cols = in_first ? in.rank : in.extent;
    double micro = static_cast<double>(work.tokens) * static_cast<double>(rows) * static_cast<double>(cols);
    if (out_first) micro += projection(out, work.tokens);
    if (in_first) micro += projection(in, work.tokens);
    double end = 0;
    if (!out_first && !in_first) {
      end = std::fmin(columns_then_rows(out, in), rows_then_columns(out, in));
    } else if (!in_first) {
      end = projection(in, rows);
    } else if (!out_first) {
      end = projection(out, cols);
    }
    return micro * static_cast<double>(work.micro_batches) + end;
  }

 private:
  static bool stored(const SideShape& side) {
    return side.kind == SideKind::factor || side.kind == SideKind::random;
  }

  /// A matrix read, added to and written back.
  double moved(index_t rows, index_t cols) const {
    return 1.5 * sparse_entry * static_cast<double>(rows) * static_cast<double>(cols);
  }

  /// `count` entries expanded along `side` into at most `groups` vectors of its extent. What `sparse_entry` is the
  /// mean of has parts of very different size, here by their measured shares of it: a multiply-add in the cache, an
  /// entry put into its group, an element of the target, and one of the side where it is packed.
  double entries(const SideShape& side, index_t count, index_t groups) const {
    const auto n = static_cast<double>(count);
    const auto extent = static_cast<double>(side.extent);
    double cost = sparse_entry * n * 50 + moved(std::min(count, groups), side.extent);
    if (!stored(side)) return cost + projection(side, std::min(count, groups));
    cost += sparse_entry * n * extent / 4;
    if (count >= 2 * side.rank) cost += sparse_entry * 10 * extent * static_cast<double>(side.rank);
    return cost;
  }
};

/// Whether W [rows, cols] += R D C^T is cheaper with D of `count` entries as a dense matrix.
inline bool expands_dense(const SideShape& rows, const SideShape& cols, index_t count,
                          const CostModel& model = {}) {
  return model.dense_expansion(rows, cols) < model.sparse_expansion(rows, cols, count);
}

/// The cheapest plan under `model`; ties go to multiply_first, the input side first.
inline Plan choose_plan(const SideShape& out, const SideShape& in, const Workload& work,
                        const CostModel& model = {}) {
  Plan best;
  double best_cost = std::numeric_limits<double>::max();
  for (const SideOrder in_order : {SideOrder::multiply_first, SideOrder::project_first}) {
    for (const SideOrder out_order : {SideOrder::multiply_first, SideOrder::project_first}) {
      if (out_order == SideOrder::project_first && out.kind == SideKind::identity) continue;
      if (in_order == SideOrder::project_first && in.kind == SideKind::identity) continue;
      const Plan plan{out_order, in_order};
      const double cost = model.step(plan, out, in, work);
      if (cost < best_cost) {
        best = plan;
        best_cost = cost;
      }
    }
  }
  return best;
}

}  // namespace sparsegrad
