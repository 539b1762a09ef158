// Parts of a layer's step on their own.
#pragma once

#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "data.hpp"
#include "layer_cases.hpp"
#include "peak_memory.hpp"
#include "token_parts.hpp"

namespace sparsegrad::bench {

/// The parts of the step of one layer, and of phase 1.
template <class Backend>
std::vector<Case> part_cases(typename Backend::Context& ctx, typename Backend::Context& one_thread,
                             const LayerShape& shape) {
  using Basis = TuckerBasis<float, Backend>;
  using Side = BasisSide<float, Backend>;
  using Matrix = Buffer<float, Backend>;
  using Gradient = SparseGradient<float, Backend>;
  const index_t out = shape.out;
  const index_t in = shape.in;
  const index_t size = out * in;
  const index_t k = shape.entries;
  const auto bytes = [](index_t n) { return 4.0 * static_cast<double>(n); };
  const auto flops = [](index_t m, index_t n, index_t l) {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(l);
  };
  const auto normal = [&ctx, out, in] {
    return std::make_shared<Matrix>(normal_matrix<Backend>(ctx, out, in, 0, 31));
  };
  const OnDemand<const Basis> full([&ctx, in, out] {
    return Basis::from_sides(stored_side<Backend>(ctx, out, out, 1), stored_side<Backend>(ctx, in, in, 2));
  });
  const OnDemand<const Basis> width([&ctx, in, out] {
    return Basis::from_sides(Side::identity(out), stored_side<Backend>(ctx, in, in, 2));
  });
  const OnDemand<const Basis> fast(
      [&ctx, in, out] { return Basis::from_sides(Side::hadamard(ctx, out, 1), Side::hadamard(ctx, in, 2)); });
  const OnDemand<const Basis> identity([in, out] { return Basis::identity(out, in); });
  std::vector<Case> cases;

  // Selection, on one thread.
  const auto top_k = [&](const std::string& kind, bool heavy) {
    cases.push_back(
        {.name = "top-k " + std::to_string(size) + " -> " + std::to_string(k) + ", " + kind + ", one thread",
         .prepare =
             [&one_thread, out, in, size, k, heavy, bytes] {
               auto x =
                   std::make_shared<Matrix>(normal_matrix<Backend>(one_thread, out, in, heavy ? 1 : 0, 32));
               for (index_t i = 0; heavy && i < size; ++i)
                 x->data()[i] *= x->data()[i] * x->data()[i];
               auto s = std::make_shared<Gradient>(one_thread, out, in, k);
               return Work{
                   .run = [&one_thread, out, in, k, x, s] { TopK{k}(one_thread, x->matrix(out, in), *s); },
                   .bytes = bytes(size)};
             },
         .most_seconds = 2e-3});
  };
  top_k("normal", false);
  top_k("heavy tails", true);

  // Optimizers.
  // A state that has met all of them before, as it is after a while, and one to which a third of every support is new.
  const auto sparse_adam = [&](const std::string& name, index_t pool, std::uint64_t variety,
                               Overflow overflow) {
    cases.push_back({.name = "SparseAdam, " + name + ", one thread",
                     .prepare =
                         [&one_thread, out, in, k, pool, variety, overflow] {
                           auto supports = std::make_shared<std::vector<Gradient>>();
                           for (std::uint64_t i = 0; i < variety; ++i)
                             supports->push_back(random_support<Backend>(one_thread, out, in, k, pool, i));
                           auto adam = std::make_shared<SparseAdam<float, Backend>>(
                               one_thread, out, in,
                               SparseAdamOptions{.capacity = 4 * k, .overflow = overflow});
                           auto update = std::make_shared<Gradient>(one_thread, out, in, 2 * k);
                           auto turn = std::make_shared<std::size_t>(0);
                           return Work{.run = [&one_thread, supports, adam, update, turn] {
                             const Gradient& s = (*supports)[(*turn)++ % supports->size()];
                             adam->step(one_thread, s, {.learning_rate = 1e-5}, *update);
                           }};
                         },
                     .most_seconds = overflow == Overflow::go_dense ? 0.2e-3 : 0});
  };
  sparse_adam("changing supports, none new", 4 * k, 8, Overflow::go_dense);
  sparse_adam("new entries evict old ones", 6 * k, 64, Overflow::evict_smallest);
  cases.push_back(
      {.name = "SparseAdam, a third of the entries new, one thread",
       .prepare =
           [&one_thread, out, in, k] {
             // Before every timed step the state is put back to two thirds of the support.
             struct State {
               SparseAdam<float, Backend> adam;
               OptimizerState<float> before;
               Gradient all, update;
             };
             auto all = random_support<Backend>(one_thread, out, in, k, 4 * k, 1);
             std::vector<stored_index_t> some;
             std::vector<float> values;
             for (index_t e = 0; e < all.count(); ++e) {
               if (e % 3 == 0) continue;
               some.push_back(all.indices()[e]);
               values.push_back(all.values()[e]);
             }
             Gradient known(one_thread, out, in, static_cast<index_t>(some.size()));
             known.assign(one_thread, some, values);
             auto state = std::make_shared<State>(
                 State{SparseAdam<float, Backend>(one_thread, out, in,
                                                  {.capacity = 4 * k, .overflow = Overflow::go_dense}),
                       {},
                       std::move(all),
                       Gradient(one_thread, out, in, 2 * k)});
             state->adam.step(one_thread, known, {.learning_rate = 1e-5}, state->update);
             state->before = state->adam.state(one_thread);
             return Work{.run =
                             [&one_thread, state] {
                               state->adam.step(one_thread, state->all, {.learning_rate = 1e-5},
                                                state->update);
                             },
                         .reset = [&one_thread, state] { state->adam.restore(one_thread, state->before); }};
           },
       .most_seconds = 0.2e-3});
  cases.push_back({.name = "dense AdamW", .prepare = [&ctx, size, normal, bytes] {
                     auto adam = std::make_shared<DenseAdamW<Backend>>(ctx, size);
                     auto g = normal();
                     auto w = normal();
                     return Work{.run = [&ctx, adam, g, w] { adam->step(ctx, g->data(), w->data()); },
                                 .bytes = bytes(7 * size)};
                   }});

  // From dW, or from dY and X, to the core gradient.
  const auto project = [&](const std::string& name, const OnDemand<const Basis>& basis, double operations) {
    cases.push_back(
        {.name = "project dW, " + name, .prepare = [&ctx, basis, normal, out, in, size, operations, bytes] {
           auto b = basis();
           auto g = normal();
           auto core = std::make_shared<Matrix>(ctx, size);
           return Work{.run = [&ctx, b, g, core, out,
                               in] { b->project(ctx, g->matrix(out, in), core->matrix(out, in)); },
                       .flops = operations,
                       .bytes = operations > 0 ? 0 : bytes(2 * size)};
         }});
  };
  project("both sides full", full, flops(out, in, in) + flops(out, out, in));
  project("width side full", width, flops(out, in, in));
  project("both sides fast transforms", fast, 0);
  for (const TransformSide side : {TransformSide::rows, TransformSide::columns}) {
    const std::string name = side == TransformSide::rows ? "rows" : "columns";
    cases.push_back(
        {.name = "fast transform of " + name, .prepare = [&ctx, fast, side, normal, out, in, size, bytes] {
           auto b = fast();
           auto g = normal();
           const float* signs = side == TransformSide::rows ? b->in().signs() : b->out().signs();
           return Work{.run =
                           [&ctx, b, g, signs, side, out, in] {
                             Backend::template hadamard<float>(ctx, signs, false, side, g->matrix(out, in));
                           },
                       .bytes = bytes(2 * size)};
         }});
  }
  for (Case& c : token_parts<Backend>(ctx, shape))
    cases.push_back(std::move(c));

  // The way back.
  cases.push_back({.name = "sparse rows times a factor", .prepare = [&ctx, full, out, in, size, k, flops] {
                     auto b = full();
                     auto d =
                         std::make_shared<Gradient>(random_support<Backend>(ctx, in, out, k, size / 4, 1));
                     auto row = std::make_shared<std::vector<stored_index_t>>();
                     auto col = std::make_shared<std::vector<stored_index_t>>();
                     for (index_t e = 0; e < d->count(); ++e) {
                       row->push_back(static_cast<stored_index_t>(d->indices()[e] / out));
                       col->push_back(static_cast<stored_index_t>(d->indices()[e] % out));
                     }
                     auto panel = std::make_shared<Matrix>(ctx, size);
                     return Work{.run =
                                     [&ctx, b, d, row, col, panel, out, in] {
                                       Backend::template expand_rows<float>(
                                           ctx, row->data(), col->data(), d->values(), d->count(),
                                           b->out().factor(), panel->matrix(in, out));
                                     },
                                 .flops = flops(d->count(), out, 1)};
                   }});
  const auto apply = [&](const std::string& name, const OnDemand<const Basis>& basis) {
    cases.push_back({.name = "apply, " + name, .prepare = [&ctx, basis, normal, out, in, size, k] {
                       auto b = basis();
                       auto w = normal();
                       auto d =
                           std::make_shared<Gradient>(random_support<Backend>(ctx, out, in, k, size / 4, 1));
                       return Work{.run = [&ctx, b, w, d, out, in] {
                         add_expanded<float, Backend>(ctx, *b, *d, WeightLayout::out_in, w->matrix(out, in));
                       }};
                     }});
  };
  apply("both sides full", full);
  apply("width side full", width);
  apply("both sides fast transforms", fast);
  apply("no rotation", identity);

  // Phase 1.
  cases.push_back({.name = "accumulator add, both sides", .prepare = [&ctx, normal, out, in, flops] {
                     auto sums = std::make_shared<HosvdAccumulator<float, Backend>>(ctx, out, in);
                     auto g = normal();
                     return Work{.run = [&ctx, sums, g, out, in] { sums->add(ctx, g->matrix(out, in)); },
                                 .flops = flops(out, in, out) / 2 + flops(out, in, in) / 2};
                   }});
  return cases;
}

/// Phase 1 of one kind of matrices: `gradients` of them into Gram sums, then the bases, on the context's threads. The
/// gradients are a few matrices of decaying spectrum, each used many times under another weight: what they cost does not
/// depend on their values. Memory at the peak is counted beyond the Gram sums themselves.
template <class Backend>
std::vector<Case> fit_cases(typename Backend::Context& ctx, const LayerShape& shape, index_t gradients) {
  std::vector<Case> cases;
  const auto fit = [&](const std::string& name, const SideRecipe& out_rule, const SideRecipe& in_rule,
                       double most_seconds) {
    cases.push_back(
        {.name = std::to_string(gradients) + " gradients to a basis, " + name,
         .prepare =
             [&ctx, shape, gradients, out_rule, in_rule] {
               constexpr index_t variety = 8;
               auto matrices = std::make_shared<std::vector<Buffer<float, Backend>>>();
               for (std::uint64_t i = 0; i < variety; ++i)
                 matrices->push_back(normal_matrix<Backend>(ctx, shape.out, shape.in, 1, 41 + i));
               auto beyond = std::make_shared<double>(0);
               return Work{
                   .run =
                       [&ctx, shape, gradients, out_rule, in_rule, matrices, beyond] {
                         HosvdAccumulator<float, Backend> sums(
                             ctx, shape.out, shape.in,
                             {.out_side = out_rule.needs_gradients(), .in_side = in_rule.needs_gradients()});
                         const PeakMemory peak;
                         for (index_t i = 0; i < gradients; ++i) {
                           const auto& g = (*matrices)[static_cast<std::size_t>(i % variety)];
                           sums.add(ctx, g.matrix(shape.out, shape.in), 1 / static_cast<double>(1 + i));
                         }
                         (void)TuckerBasis<float, Backend>::fit(ctx, std::move(sums), out_rule, in_rule);
                         *beyond = peak.beyond_start();
                       },
                   .extra_bytes = [beyond] { return *beyond; }};
             },
         .most_seconds = most_seconds,
         .most_extra_bytes = most_seconds > 0 ? 100e6 : 0});
  };
  fit("width side full", SideRecipe::identity(), SideRecipe::hosvd(), 0);
  fit("both sides full", SideRecipe::hosvd(), SideRecipe::hosvd(), 16);
  return cases;
}

}  // namespace sparsegrad::bench
