// Plan: the order of the products in a core gradient V^T dY^T X U, and the cost model that chooses
// it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "basis_side.hpp"
#include "core/config.hpp"
#include "core/error.hpp"
#include "core/number.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// When a side is projected.
enum class SideOrder {
  project_first,   ///< the tokens are projected: X U, or dY V, enters the product with the other side
  multiply_first,  ///< the product dY^T X, summed over a step, is projected
};

/// Order of the products in a core gradient, side by side.
/// All plans give the same core up to rounding. A side without rotation has nothing to project; its
/// order is multiply_first.
struct Plan {
  SideOrder out = SideOrder::multiply_first;  ///< when dY, or the product's rows, meet V
  SideOrder in = SideOrder::multiply_first;   ///< when X, or the product's columns, meet U
  /// Whether both sides' orders are equal.
  bool operator==(const Plan&) const = default;
};

/// The plan as text: "out: multiply_first, in: project_first".
inline std::string to_string(const Plan& plan) {
  const auto name = [](SideOrder order) {
    return order == SideOrder::project_first ? "project_first" : "multiply_first";
  };
  return std::string("out: ") + name(plan.out) + ", in: " + name(plan.in);
}

/// What the cost model knows of one side of a basis.
struct SideShape {
  SideKind kind = SideKind::identity;  ///< what U is
  index_t extent = 0;                  ///< n, of the gradient
  index_t rank = 0;                    ///< r, of the core
};

/// What the cost model knows of a BasisSide, or of what stands for one.
template <class Side>
SideShape shape_of(const Side& side) {
  return {side.kind(), side.extent(), side.rank()};
}

/// Work between two optimizer steps, from which the cheapest plan is chosen.
/// Results are right for any number of tokens; an engine whose batches are far from the default
/// should say so, or the plan may be a slow one.
struct Workload {
  index_t tokens = 2048;      ///< of one micro-batch, >= 1
  index_t micro_batches = 1;  ///< before one optimizer step, >= 1

  /// Throws ValueError unless both numbers are at least 1.
  void require_valid() const {
    if (tokens >= 1 && micro_batches >= 1) return;
    throw ValueError("the workload is " + std::to_string(micro_batches) + " micro-batches of " +
                     std::to_string(tokens) + " tokens, expected both numbers >= 1");
  }
};

/// Model of what products cost, in multiply-adds of a dense product with tokens.
/// The parameters say how many such multiply-adds take as long as another operation. Their defaults
/// are those of float products, measured on two cores of an AMD Zen 3 with OpenBLAS; a layer without
/// a model of its own takes `default_cost_model`, which knows products of 16 bits too, and
/// `sparsegrad-bench calibrate` measures another machine. All are finite and >= 0.
struct CostModel {
  double transform_entry = 80;  ///< Hadamard transform, for each entry of the matrix
  double sparse_entry = 8;      ///< multiply-add of a sparse row expansion, with what it moves
  double rotation_product = 1;  ///< multiply-add of a product of a basis with a float gradient or update

  /// Throws ValueError unless all parameters are finite and >= 0.
  void require_valid() const {
    for (const double cost : {transform_entry, sparse_entry, rotation_product}) {
      if (is_finite(cost) && cost >= 0) continue;
      throw ValueError("the cost model has transform_entry " + number_text(transform_entry) +
                       ", sparse_entry " + number_text(sparse_entry) + " and rotation_product " +
                       number_text(rotation_product) + ", expected finite numbers >= 0");
    }
  }

  /// Cost of projecting `vectors` tokens of a side's extent.
  double projection(const SideShape& side, index_t vectors) const { return product(side, vectors, 1); }
  /// Cost of projecting `vectors` vectors of a float matrix, or of expanding to them.
  double rotation(const SideShape& side, index_t vectors) const {
    return product(side, vectors, rotation_product);
  }

  /// Cost of R^T A C, A [rows.extent, cols.extent], as R^T (A C).
  double columns_then_rows(const SideShape& rows, const SideShape& cols) const {
    return rotation(cols, rows.extent) + rotation(rows, cols.rank);
  }
  /// Cost of R^T A C, A [rows.extent, cols.extent], as (R^T A) C.
  double rows_then_columns(const SideShape& rows, const SideShape& cols) const {
    return rotation(rows, cols.extent) + rotation(cols, rows.rank);
  }
  /// Whether R^T (A C) costs at most what (R^T A) C does.
  bool projects_columns_first(const SideShape& rows, const SideShape& cols) const {
    return columns_then_rows(rows, cols) <= rows_then_columns(rows, cols);
  }
  /// Whether R (D C^T) costs at most what (R D) C^T does; the same products as of a projection, in
  /// reverse order.
  bool expands_columns_first(const SideShape& rows, const SideShape& cols) const {
    return rows_then_columns(rows, cols) <= columns_then_rows(rows, cols);
  }

  /// Cost of W [rows, cols] += R D C^T with D as a dense matrix.
  double dense_expansion(const SideShape& rows, const SideShape& cols) const {
    const double halves = std::fmin(columns_then_rows(rows, cols), rows_then_columns(rows, cols));
    return halves + moved(rows.extent, cols.extent);
  }

  /// Cost of W [rows, cols] += R D C^T with the `count` entries of D one by one, along the cheaper
  /// of the rotated sides.
  double sparse_expansion(const SideShape& rows, const SideShape& cols, index_t count) const {
    if (!stored(rows) && !stored(cols)) return 0;  // no product to save
    if (rows.kind == SideKind::identity) return entries(cols, count, rows.extent);
    if (cols.kind == SideKind::identity) {
      // Columns of W come by way of a panel.
      return entries(rows, count, cols.extent) + 7 * moved((std::min)(count, cols.extent), rows.extent);
    }
    return moved(rows.extent, cols.extent) +
           std::fmin(sparse_expansion_along(rows, cols, count), sparse_expansion_along(cols, rows, count));
  }

  /// Cost of W += R D C^T, both sides rotated, with the entries expanded along `side` and then a
  /// dense product with the stored side `other`; infinite when that is not stored.
  double sparse_expansion_along(const SideShape& side, const SideShape& other, index_t count) const {
    if (!stored(other)) return (std::numeric_limits<double>::max)();
    const auto groups = static_cast<double>((std::min)(count, other.rank));
    return entries(side, count, other.rank) +
           rotation_product * groups * static_cast<double>(side.extent) * static_cast<double>(other.extent);
  }

  /// Cost of the core gradient of one optimizer step under `plan`.
  /// It counts the product and the projections of every micro-batch and the projections at the end.
  /// Forward and dX are the same under every plan and not counted.
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
      end = rotation(in, rows);
    } else if (!out_first) {
      end = rotation(out, cols);
    }
    return micro * static_cast<double>(work.micro_batches) + end;
  }

 private:
  double product(const SideShape& side, index_t vectors, double multiply_add) const {
    const auto n = static_cast<double>(side.extent);
    const auto v = static_cast<double>(vectors);
    if (side.kind == SideKind::identity) return 0;
    if (side.kind == SideKind::hadamard) return transform_entry * n * v;
    return multiply_add * n * static_cast<double>(side.rank) * v;
  }
  static bool stored(const SideShape& side) {
    return side.kind == SideKind::factor || side.kind == SideKind::random;
  }

  /// A matrix read, added to and written back.
  double moved(index_t rows, index_t cols) const {
    return 1.5 * sparse_entry * static_cast<double>(rows) * static_cast<double>(cols);
  }

  /// `count` entries expanded along `side` into at most `groups` vectors of its extent. What
  /// `sparse_entry` is the mean of has parts of very different size, here by their measured shares
  /// of it: a multiply-add in the cache, an entry put into its group, an element of the target, and
  /// one of the side where it is packed.
  double entries(const SideShape& side, index_t count, index_t groups) const {
    const auto n = static_cast<double>(count);
    const auto extent = static_cast<double>(side.extent);
    double cost = sparse_entry * n * 50 + moved((std::min)(count, groups), side.extent);
    if (!stored(side)) return cost + rotation(side, (std::min)(count, groups));
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
  double best_cost = (std::numeric_limits<double>::max)();
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

}  // namespace sparsegrad::SPARSEGRAD_ABI
