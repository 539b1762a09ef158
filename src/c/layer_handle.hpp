// LayerHandle: a layer of one backend and type behind the C interface.
#pragma once

#include <memory>
#include <utility>

#include <sparsegrad/sparse_grad_linear.hpp>

#include "conversions.hpp"
#include "handles.hpp"
#include "machine.hpp"

namespace sparsegrad::c {

template <class T, class B>
class LayerHandle final : public AnyLayer {
 public:
  using Layer = SparseGradLinear<T, B>;

  LayerHandle(std::shared_ptr<Machine<B>> machine, const sparsegrad_weight& weight, const void* bias,
              const sparsegrad_layer_options& options)
      : LayerHandle(std::move(machine), trained_weight<T>(weight),
                    elements<const T>("the bias", bias, dtype_of<T>),
                    {.tokens = options.tokens, .micro_batches = options.micro_batches}) {}

  const std::shared_ptr<Machine<B>>& machine() const { return machine_; }
  Layer& layer() { return *layer_; }

  std::int64_t kept_cols() const override { return layer_->kept_cols(); }

  sparsegrad_saved_input forward(const sparsegrad_const_matrix& x, const sparsegrad_matrix& y,
                                 const sparsegrad_matrix& keep) override {
    const SavedInput<T> saved = layer_->forward(machine_->ctx, view<const T>("X", x), view<T>("Y", y),
                                                optional_view<T>("keep", keep));
    return {matrix_of(saved.input), saved.projected ? 1 : 0, saved.basis};
  }

  void backward(const sparsegrad_const_matrix& dy, const sparsegrad_saved_input& saved,
                const sparsegrad_matrix& dx, float* db, std::int32_t mode) override {
    require_choice("mode", mode, 2);
    const SavedInput<T> input{view<const T>("the saved input", saved.input), saved.projected != 0,
                              saved.basis};
    layer_->backward(machine_->ctx, view<const T>("dY", dy), input, optional_view<T>("dX", dx),
                     elements<float>("db", db, SPARSEGRAD_FLOAT32),
                     mode == SPARSEGRAD_OVERWRITE ? InputGradient::overwrite : InputGradient::add);
  }

  void rebind(const sparsegrad_weight& weight, const void* bias) override {
    const TrainedWeight<T> moved = trained_weight<T>(weight);
    if (moved.layout != layer_->options().layout)
      throw ValueError("layout is " + std::to_string(weight.layout) + ", expected that of before");
    const T* b = elements<const T>("the bias", bias, dtype_of<T>);
    if constexpr (is_low_precision<T>) {
      layer_->rebind(moved.weight, moved.master, b);
    } else {
      layer_->rebind(moved.weight, b);
    }
  }

 private:
  LayerHandle(std::shared_ptr<Machine<B>> machine, const TrainedWeight<T>& weight, const T* bias,
              const Workload& workload)
      : machine_(std::move(machine)) {
    workload.require_valid();
    const LinearOptions options{.layout = weight.layout, .workload = workload};
    if constexpr (is_low_precision<T>) {
      layer_ = std::make_unique<Layer>(machine_->ctx, weight.weight, weight.master, bias, options);
    } else {
      layer_ = std::make_unique<Layer>(machine_->ctx, weight.weight, bias, options);
    }
  }

  std::shared_ptr<Machine<B>> machine_;
  std::unique_ptr<Layer> layer_;
};

}  // namespace sparsegrad::c
