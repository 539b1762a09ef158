// The parts of a layer's step that read tokens, for every type that stores them.
#pragma once

#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "data.hpp"
#include "layer_cases.hpp"

namespace sparsegrad::bench {

/// Products, sampled products, forward passes and bias of one layer, tokens and weight in T.
template <class Backend, class T = float>
std::vector<Case> token_parts(typename Backend::Context& ctx, const LayerShape& shape) {
  using Basis = TuckerBasis<float, Backend>;
  using Side = BasisSide<float, Backend>;
  using Matrix = Buffer<float, Backend>;
  using Gradient = SparseGradient<float, Backend>;
  const index_t out = shape.out;
  const index_t in = shape.in;
  const index_t size = out * in;
  const index_t k = shape.entries;
  const auto bytes = [](index_t n) { return static_cast<double>(sizeof(T)) * static_cast<double>(n); };
  const auto flops = [](index_t m, index_t n, index_t l) {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(l);
  };
  const OnDemand<LayerData<Backend, T>> data(
      [&ctx, shape] { return std::make_shared<LayerData<Backend, T>>(ctx, shape); });
  const auto weight = [&ctx, out, in] {
    return std::make_shared<Parameters<Backend, T>>(ctx, normal_matrix<Backend>(ctx, out, in, 0, 31));
  };
  std::vector<Case> cases;

  cases.push_back(
      {.name = "dW, dense product", .prepare = [&ctx, data, out, in, size, flops] {
         auto d = data();
         auto dw = std::make_shared<Matrix>(ctx, size);
         return Work{
             .run = [&ctx, d, dw, out,
                     in] { sum_over_tokens<Backend, T>(ctx, 1, d->dy(0), d->x(0), 0, dw->matrix(out, in)); },
             .flops = flops(out, in, d->shape.tokens)};
       }});
  cases.push_back(
      {.name = "dW at a fixed support (SDDMM)",
       .prepare =
           [&ctx, data, out, in, size, k, flops] {
             auto d = data();
             auto s = std::make_shared<Gradient>(random_support<Backend>(ctx, out, in, k, size / 4, 1));
             return Work{.run =
                             [&ctx, d, s, in] {
                               Backend::template sampled_product<T>(ctx, d->dy(0), d->x(0), s->indices(),
                                                                    s->count(), in, s->values());
                             },
                         .flops = flops(s->count(), d->shape.tokens, 1)};
           },
       .most_ratio = 0.06,
       .over = "dW, dense product"});
  // The thin products of a truncated side.
  const index_t width = std::min(in, out);
  const index_t rank = std::min<index_t>(64, width);
  cases.push_back({.name = "tokens onto a side of rank " + std::to_string(rank),
                   .prepare = [&ctx, data, width, in, rank, flops] {
                     auto d = data();
                     auto u = std::make_shared<Buffer<T, Backend>>(
                         stored_as<T>(ctx, normal_matrix<Backend>(ctx, rank, width, 0, 33)));
                     const auto tokens = width == in ? d->x(0) : d->dy(0);
                     auto onto = std::make_shared<Buffer<T, Backend>>(ctx, tokens.rows * rank);
                     return Work{.run =
                                     [&ctx, d, u, onto, tokens, rank, width] {
                                       Backend::template gemm<T>(ctx, Op::none, Op::transpose, 1, tokens,
                                                                 u->matrix(rank, width), 0,
                                                                 onto->matrix(tokens.rows, rank));
                                     },
                                 .flops = flops(tokens.rows, width, rank)};
                   }});

  // The forward pass of an adapter beside that of the plain layer.
  const auto forward = [&](const std::string& name, double most_ratio, const auto& make_layer) {
    cases.push_back({.name = name,
                     .prepare =
                         [&ctx, data, weight, out, in, make_layer, shape, flops] {
                           auto d = data();
                           auto w = weight();
                           auto layer = make_layer(*w);
                           auto keep =
                               std::make_shared<Buffer<T, Backend>>(ctx, shape.tokens * layer->kept_cols());
                           return Work{.run =
                                           [&ctx, d, w, layer, keep, shape] {
                                             layer->forward(ctx, d->x(0), d->y(),
                                                            keep->matrix(keep->empty() ? 0 : shape.tokens,
                                                                         layer->kept_cols()));
                                           },
                                       .flops = flops(shape.tokens, out, in)};
                         },
                     .most_ratio = most_ratio,
                     .over = "forward"});
  };
  forward("forward", 0, [&ctx, out, in](Parameters<Backend, T>& w) {
    using Layer = SparseGradLinear<T, Backend>;
    if constexpr (is_low_precision<T>) {
      return std::make_shared<Layer>(ctx, w.matrix(out, in), w.master().matrix(out, in), nullptr);
    } else {
      return std::make_shared<Layer>(ctx, w.matrix(out, in), nullptr);
    }
  });
  forward("forward with an adapter, width side 64", 1.12, [&ctx, out, in](Parameters<Backend, T>& w) {
    const auto basis =
        Basis::from_sides(Side::identity(out), stored_side<Backend>(ctx, in, std::min<index_t>(64, in), 3));
    auto adapter = std::make_shared<CoreAdapter<T, Backend>>(ctx, w.matrix(out, in), nullptr, basis);
    Gradient one(ctx, out, basis->cols(), 1);
    const stored_index_t at = 5;
    const float by = 1;
    one.assign(ctx, {&at, 1}, {&by, 1});
    adapter->apply(ctx, one);
    return adapter;
  });

  // The bias.
  cases.push_back(
      {.name = "column sums of dY", .prepare = [&ctx, data, out, bytes] {
         auto d = data();
         auto sums = std::make_shared<Matrix>(ctx, out);
         return Work{
             .run = [&ctx, d, sums] { Backend::template column_sums<T>(ctx, d->dy(0), sums->data()); },
             .bytes = bytes(d->shape.tokens * out)};
       }});
  cases.push_back(
      {.name = "bias added to Y", .prepare = [&ctx, data, out, bytes] {
         auto d = data();
         auto bias = std::make_shared<Bias<Backend, T>>(ctx, out);
         return Work{
             .run = [&ctx, d, bias] { Backend::template add_to_rows<T>(ctx, bias->value.data(), d->y()); },
             .bytes = bytes(2 * d->shape.tokens * out)};
       }});
  return cases;
}

}  // namespace sparsegrad::bench
