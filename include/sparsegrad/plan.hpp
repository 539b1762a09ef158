// Plans: the orders in which the core gradient V^T dY^T X U can be computed, and the cost model that picks one.
#pragma once

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

/// Work between two optimizer steps.
struct Workload {
  index_t tokens = 2048;      ///< of one micro-batch
  index_t micro_batches = 1;  ///< before one optimizer step
};

/// Cost of the orders in multiply-adds of a dense product. The weights say how many such multiply-adds another
/// operation takes the time of; the defaults were measured on two cores of an AMD Zen 3 with OpenBLAS (sparsegrad-bench
/// calibrate measures those of another machine).
struct CostModel {
  double transform_entry = 80;  ///< a fast transform, for each entry of the matrix
  double sparse_entry = 8;      ///< a multiply-add of a sparse row expansion

  /// Projecting `vectors` vectors of a side's extent.
  double projection(const SideShape& side, index_t vectors) const {
    const auto n = static_cast<double>(side.extent);
    const auto v = static_cast<double>(vectors);
    if (side.kind == SideKind::identity) return 0;
    if (side.kind == SideKind::fast_transform) return transform_entry * n * v;
    return n * static_cast<double>(side.rank) * v;
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
      end = std::fmin(projection(in, rows) + projection(out, in.rank),
                      projection(out, cols) + projection(in, out.rank));
    } else if (!in_first) {
      end = projection(in, rows);
    } else if (!out_first) {
      end = projection(out, cols);
    }
    return micro * static_cast<double>(work.micro_batches) + end;
  }
};

/// The cheapest plan under `model`; ties go to multiply_first, the input side first.
inline Plan choose_plan(const SideShape& out, const SideShape& in, const Workload& work,
                        const CostModel& model = {}) {
  Plan best;
  double best_cost = std::numeric_limits<double>::infinity();
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
