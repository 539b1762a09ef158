// The steps of one layer as cases: dense, by every kind of basis, in the order of the paper's own layer, LoRA.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "data.hpp"
#include "layer_steps.hpp"
#include "lora_step.hpp"

namespace sparsegrad::bench {

/// A square product of numbers in T, whose best rate stands for what the machine can do.
template <class Backend, class T = float>
Case square_product(typename Backend::Context& ctx, index_t n) {
  const std::string edge = std::to_string(n);
  return {.name = "product " + edge + " x " + edge + " x " + edge, .prepare = [&ctx, n] {
            using Matrix = Buffer<T, Backend>;
            auto a = std::make_shared<Matrix>(stored_as<T>(ctx, normal_matrix<Backend>(ctx, n, n, 0, 1)));
            auto b = std::make_shared<Matrix>(stored_as<T>(ctx, normal_matrix<Backend>(ctx, n, n, 0, 2)));
            auto c = std::make_shared<Matrix>(ctx, n * n);
            const auto run = [&ctx, n, a, b, c] {
              Backend::template gemm<T>(ctx, Op::none, Op::none, 1, a->matrix(n, n), b->matrix(n, n), 0,
                                        c->matrix(n, n));
            };
            return Work{.run = run, .flops = 2 * std::pow(static_cast<double>(n), 3)};
          }};
}

template <class Data, class Step>
Work step_work(std::shared_ptr<Data> data, std::shared_ptr<Step> step) {
  return {.run = [data, step] { (*step)(); },
          .flops = step->flops(),
          .bytes = step->bytes(),
          .memory = [step] { return step->memory(); }};
}

/// Rank of the LoRA whose factors have as many entries as a sparse step keeps: r (out + in) = entries.
inline index_t equal_lora_rank(const LayerShape& s) {
  return std::max<index_t>(1, (s.entries + (s.out + s.in) / 2) / (s.out + s.in));
}

/// What is wanted of the steps at this shape's tokens and micro-batches, times the dense step; 0: nothing.
struct Wanted {
  double both_full = 0;
  double width_full = 0;
  double truncated = 0;
  double fast = 0;
};
inline Wanted wanted_of(const LayerShape& s) {
  if (s.micro_batches == 8 && s.tokens == 2048) return {.both_full = 1.15};
  if (s.micro_batches > 1) return {};
  if (s.tokens == 4096) return {.both_full = 1.5};
  if (s.tokens == 2048) return {.both_full = 1.9, .width_full = 1.15, .truncated = 0.75, .fast = 1.08};
  return {};
}

/// The steps of one layer on the same data. The first is the dense one.
template <class Backend>
std::vector<Case> layer_cases(typename Backend::Context& ctx, const LayerShape& shape) {
  using Basis = TuckerBasis<float, Backend>;
  using Side = BasisSide<float, Backend>;
  const index_t out = shape.out;
  const index_t in = shape.in;
  const index_t width = std::min(in, out);
  const OnDemand<LayerData<Backend>> data(
      [&ctx, shape] { return std::make_shared<LayerData<Backend>>(ctx, shape); });
  // A basis on the width side alone.
  const auto one_sided = [in, out](Side side) {
    return in < out ? Basis::from_sides(Side::identity(out), std::move(side))
                    : Basis::from_sides(std::move(side), Side::identity(in));
  };
  const OnDemand<const Basis> full([&ctx, in, out] {
    return Basis::from_sides(stored_side<Backend>(ctx, out, out, 1), stored_side<Backend>(ctx, in, in, 2));
  });
  const OnDemand<const Basis> width_full(
      [&ctx, width, one_sided] { return one_sided(stored_side<Backend>(ctx, width, width, 3)); });
  const OnDemand<const Basis> width_64([&ctx, width, one_sided] {
    return one_sided(stored_side<Backend>(ctx, width, std::min<index_t>(64, width), 3));
  });
  const OnDemand<const Basis> fast(
      [&ctx, in, out] { return Basis::from_sides(Side::hadamard(ctx, out, 1), Side::hadamard(ctx, in, 2)); });
  const OnDemand<const Basis> identity([in, out] { return Basis::identity(out, in); });

  std::vector<Case> cases;
  const auto add = [&](const std::string& name, double most_ratio, auto make_step) {
    cases.push_back({.name = name,
                     .prepare =
                         [data, make_step] {
                           auto shared = data();
                           auto step = make_step(*shared);
                           return step_work(shared, step);
                         },
                     .most_ratio = most_ratio});
  };
  const auto sparse = [&ctx](const OnDemand<const Basis>& basis, index_t entries) {
    return [&ctx, basis, entries](LayerData<Backend>& d) {
      return std::make_shared<SparseStep<Backend>>(ctx, d, basis(), entries);
    };
  };
  add("dense, AdamW", 0, [&ctx](auto& d) { return std::make_shared<DenseStep<Backend>>(ctx, d); });
  const Wanted wanted = wanted_of(shape);
  add("both sides full", wanted.both_full, sparse(full, shape.entries));
  add("width side full", wanted.width_full, sparse(width_full, shape.entries));
  add("width side 64, top-k", wanted.truncated, sparse(width_64, shape.entries));
  add("width side 64, all entries", wanted.truncated, sparse(width_64, out * in));
  add("both sides fast transforms", wanted.fast, sparse(fast, shape.entries));
  add("no rotation", 0, sparse(identity, shape.entries));
  add("in the basis (the paper's order)", 0,
      [&ctx, full](auto& d) { return std::make_shared<InBasisStep<Backend>>(ctx, d, full()); });
  const index_t lora_rank = equal_lora_rank(shape);
  add("LoRA of rank " + std::to_string(lora_rank), 0,
      [&ctx, lora_rank](auto& d) { return std::make_shared<LoraStep<Backend>>(ctx, d, lora_rank); });
  return cases;
}

}  // namespace sparsegrad::bench
