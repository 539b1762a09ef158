// The cost model of layers that are given none.
#pragma once

#include "plan.hpp"
#include "rotation_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

/// How many times the rate of float products those of T have in this context.
template <class T, class Context>
double product_speedup(const Context& ctx) {
  if constexpr (requires { ctx.template product_speedup<T>(); }) return ctx.template product_speedup<T>();
  return 1;
}

}  // namespace detail

/// The cost model of layers that store T, rotate with `rotations` and are given none. CostModel's
/// own defaults are in multiply-adds of float products; where those of T take 1/s of their time
/// (s = 2 with AVX-512 BF16, 8 with AMX: what the context's `product_speedup` says), everything else
/// costs s times as many.
template <class T, Backend B>
CostModel default_cost_model(const typename B::Context& ctx, RotationPrecision rotations) {
  const double speedup = detail::product_speedup<T>(ctx);
  CostModel model;
  model.transform_entry *= speedup;
  model.sparse_entry *= speedup;
  model.rotation_product *= speedup;
  if (rotations != RotationPrecision::full)
    model.rotation_product *= bfloat16_products(rotations) / detail::product_speedup<bfloat16>(ctx);
  return model;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
