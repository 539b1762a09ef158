// ContextHandle: a backend's context behind the C interface. One unit a backend instantiates it, and with it all
// of the library that the backend takes part in.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/top_k.hpp>

#include "adam_handle.hpp"
#include "basis_handle.hpp"
#include "conversions.hpp"
#include "group_handle.hpp"
#include "handles.hpp"
#include "layer_handle.hpp"
#include "machine.hpp"

namespace sparsegrad::c {

template <class B>
class ContextHandle final : public AnyContext {
 public:
  ContextHandle(sparsegrad_backend backend, std::shared_ptr<Machine<B>> machine)
      : backend_(backend), machine_(std::move(machine)) {}

  /// On the threads that the options ask for.
  static std::unique_ptr<AnyContext> make(sparsegrad_backend backend,
                                          const sparsegrad_context_options& options) {
    using OnExecutor = typename Machine<B>::OnExecutor;
    if (options.executor.run == nullptr)
      return std::make_unique<ContextHandle>(backend, std::make_shared<Machine<B>>(options));
    if (options.threads != 0) {
      throw ValueError("threads is " + std::to_string(options.threads) +
                       " beside an executor, expected 0: the executor says how many");
    }
    return std::make_unique<ContextHandle>(backend, std::make_shared<Machine<B>>(options, OnExecutor()));
  }

  sparsegrad_backend backend() const override { return backend_; }
  std::int32_t threads() const override { return machine_->ctx.threads(); }

  std::unique_ptr<AnyGroup> make_group(const sparsegrad_group_options& options) override {
    if (options.weight_dtype == SPARSEGRAD_FLOAT32)
      return std::make_unique<GroupHandle<float, B>>(machine_, options);
    if (options.weight_dtype == SPARSEGRAD_BFLOAT16)
      return std::make_unique<GroupHandle<bfloat16, B>>(machine_, options);
    throw ValueError("weight_dtype is " + dtype_text(options.weight_dtype) +
                     ", expected float32 or bfloat16");
  }

  std::shared_ptr<AnyLayer> make_layer(const sparsegrad_weight& weight, const void* bias,
                                       const sparsegrad_layer_options& options) override {
    if (weight.matrix.dtype == SPARSEGRAD_FLOAT32)
      return std::make_shared<LayerHandle<float, B>>(machine_, weight, bias, options);
    if (weight.matrix.dtype == SPARSEGRAD_BFLOAT16)
      return std::make_shared<LayerHandle<bfloat16, B>>(machine_, weight, bias, options);
    throw ValueError("the weight is of " + dtype_text(weight.matrix.dtype) +
                     ", expected float32 or bfloat16");
  }

  std::shared_ptr<AnyBasis> fit_basis(std::int64_t out, std::int64_t in,
                                      const sparsegrad_const_matrix* gradients, std::int64_t count,
                                      const sparsegrad_side& out_side,
                                      const sparsegrad_side& in_side) override {
    const SideRecipe out_recipe = side_recipe("out_side", out_side);
    const SideRecipe in_recipe = side_recipe("in_side", in_side);
    if (count < 0) throw ValueError("count is " + std::to_string(count) + ", expected >= 0");
    if (count > 0) require_pointer("gradients", gradients);
    auto& ctx = machine_->ctx;
    HosvdOptions options;
    options.out_side = out_recipe.needs_gradients();
    options.in_side = in_recipe.needs_gradients();
    HosvdAccumulator<float, B> sums(ctx, out, in, options);
    for (std::int64_t i = 0; i < count; ++i) {
      with_name([&] { return "gradient " + std::to_string(i); },
                [&] { sums.add(ctx, FloatMatrix<B>(ctx, "the gradient", gradients[i]).view()); });
    }
    return std::make_shared<BasisHandle<B>>(
        machine_, TuckerBasis<float, B>::fit(ctx, std::move(sums), out_recipe, in_recipe));
  }

  std::shared_ptr<AnyBasis> basis_from_factors(const sparsegrad_const_matrix& v,
                                               const sparsegrad_const_matrix& u, double tolerance) override {
    const double most = tolerance == 0 ? TuckerBasis<float, B>::default_tolerance : tolerance;
    return std::make_shared<BasisHandle<B>>(
        machine_, TuckerBasis<float, B>::from_factors(machine_->ctx, view<const float>("V", v),
                                                      view<const float>("U", u), most));
  }

  std::unique_ptr<AnyAdam> make_adam(std::int64_t rows, std::int64_t cols,
                                     const sparsegrad_adam_options& options) override {
    return std::make_unique<AdamHandle<B>>(machine_, rows, cols, options);
  }

  std::int64_t top_k(const sparsegrad_const_matrix& core, std::int64_t k, std::int32_t* positions,
                     float* values) override {
    auto& ctx = machine_->ctx;
    const FloatMatrix<B> given(ctx, "the core", core);
    const MatrixView<const float> from = given.view();
    if (k < 0) throw ValueError("k is " + std::to_string(k) + ", expected k >= 0");
    const index_t most = std::min(k, from.size());
    if (most > 0) {
      require_pointer("positions", positions);
      require_pointer("values", values);
    }
    SparseGradient<float, B> selected(ctx, from.rows, from.cols, most);
    auto frame = ctx.frame();
    const MatrixView<float> packed = frame.template matrix<float>(from.rows, from.cols);
    if (!from.contiguous()) B::template copy<float>(ctx, from, packed);
    select_entries<float, B>(ctx, TopK{most}, from.contiguous() ? from : packed, selected);
    const std::vector<stored_index_t> at = selected.positions(ctx);
    std::copy(at.begin(), at.end(), positions);
    std::copy_n(selected.values(), selected.count(), values);
    return selected.count();
  }

 private:
  sparsegrad_backend backend_;
  std::shared_ptr<Machine<B>> machine_;
};

}  // namespace sparsegrad::c
