// The steps of one cell of the grid: what layer_cases.hpp has, with every plan of every basis.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/default_cost_model.hpp>

#include "layer_cases.hpp"

namespace sparsegrad::bench {

/// A case with what the tables sort it by.
struct GridCase {
  Case what;
  std::string family;     ///< all plans of a basis are one family
  std::string plan = {};  ///< empty where there is nothing to choose
  bool chosen = false;    ///< the cost model's choice
};

/// Plans that differ for this basis, the cost model's choice first.
template <class Basis>
std::vector<Plan> plans_of(const Basis& basis, const Workload& work, const CostModel& model) {
  const auto side = [](const auto& s) { return SideShape{s.kind(), s.extent(), s.rank()}; };
  std::vector<Plan> plans{choose_plan(side(basis.out()), side(basis.in()), work, model)};
  for (const SideOrder out : {SideOrder::multiply_first, SideOrder::project_first}) {
    for (const SideOrder in : {SideOrder::multiply_first, SideOrder::project_first}) {
      if (out == SideOrder::project_first && !basis.out().rotates()) continue;
      if (in == SideOrder::project_first && !basis.in().rotates()) continue;
      if (!(Plan{out, in} == plans.front())) plans.push_back({out, in});
    }
  }
  return plans;
}

/// The bases of a grid, tokens and weights in T. `rank` is that of the truncated sides; a full one is left out, as it has its own family.
template <class Backend, class T = float>
std::vector<GridCase> grid_cases(typename Backend::Context& ctx, const LayerShape& shape, index_t rank) {
  using Basis = TuckerBasis<float, Backend>;
  using Side = BasisSide<float, Backend>;
  using Data = LayerData<Backend, T>;
  const index_t out = shape.out;
  const index_t in = shape.in;
  const index_t width = std::min(in, out);
  const OnDemand<Data> data([&ctx, shape] { return std::make_shared<Data>(ctx, shape); });
  const auto both = [&ctx, out, in](index_t r, index_t c) {
    return Basis::from_sides(stored_side<Backend>(ctx, out, r, 1), stored_side<Backend>(ctx, in, c, 2));
  };
  const auto one_sided = [&ctx, in, out, width](index_t r) {
    return in < out ? Basis::from_sides(Side::identity(out), stored_side<Backend>(ctx, width, r, 3))
                    : Basis::from_sides(stored_side<Backend>(ctx, width, r, 3), Side::identity(in));
  };

  std::vector<GridCase> cases;
  const auto add = [&](const std::string& family, auto make_step) {
    cases.push_back({.what = {.name = family,
                              .prepare =
                                  [data, make_step] {
                                    auto shared = data();
                                    return step_work(shared, make_step(*shared));
                                  }},
                     .family = family});
  };
  const CostModel model = default_cost_model<T, Backend>(ctx, default_rotations<T, Backend>(ctx));
  const auto add_basis = [&](const std::string& family, const OnDemand<const Basis>& basis, index_t entries) {
    const std::vector<Plan> plans = plans_of(*basis(), {shape.tokens, shape.micro_batches}, model);
    for (const Plan& plan : plans) {
      add(family, [&ctx, basis, entries, plan](Data& d) {
        return std::make_shared<SparseStep<Backend, T>>(ctx, d, basis(), entries, plan);
      });
      if (plans.size() == 1) continue;
      GridCase& c = cases.back();
      c.plan = to_string(plan);
      c.what.name += "; " + c.plan;
      c.chosen = &plan == &plans.front();
    }
  };

  add("dense, AdamW", [&ctx](Data& d) { return std::make_shared<DenseStep<Backend, T>>(ctx, d); });
  const OnDemand<const Basis> full([both, out, in] { return both(out, in); });
  add_basis("both sides full", full, shape.entries);
  add_basis("width side full", OnDemand<const Basis>([=] { return one_sided(width); }), shape.entries);
  if (rank < width) {
    const std::string r = std::to_string(rank);
    const OnDemand<const Basis> truncated([=] { return one_sided(rank); });
    add_basis("width side " + r + ", top-k", truncated, shape.entries);
    add_basis("width side " + r + ", all entries", truncated, out * in);
    add_basis("both sides " + r + ", top-k", OnDemand<const Basis>([=] { return both(rank, rank); }),
              shape.entries);
  }
  add_basis("both sides fast transforms", OnDemand<const Basis>([&ctx, in, out] {
              return Basis::from_sides(Side::hadamard(ctx, out, 1), Side::hadamard(ctx, in, 2));
            }),
            shape.entries);
  add_basis("no rotation", OnDemand<const Basis>([in, out] { return Basis::identity(out, in); }),
            shape.entries);
  if constexpr (!is_low_precision<T>) {
    add("in the basis (the paper's order)",
        [&ctx, full](Data& d) { return std::make_shared<InBasisStep<Backend>>(ctx, d, full()); });
  }
  const index_t lora_rank = equal_lora_rank(shape);
  add("LoRA of equal entries",
      [&ctx, lora_rank](Data& d) { return std::make_shared<LoraStep<Backend, T>>(ctx, d, lora_rank); });
  return cases;
}

}  // namespace sparsegrad::bench
