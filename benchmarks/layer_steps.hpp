// The whole step of one linear layer, from x and dY to the new weight: dense, in a basis, and in the order of the
// paper's own layer.
#pragma once

#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "case.hpp"
#include "data.hpp"
#include "parameters.hpp"
#include "traffic.hpp"

namespace sparsegrad::bench {

struct LayerShape {
  std::string name;  ///< "768 -> 3072"
  index_t out = 0;
  index_t in = 0;
  index_t tokens = 2048;      ///< of a micro-batch
  index_t micro_batches = 1;  ///< of an optimizer step
  index_t entries = 28000;    ///< kept of a gradient
};

/// Shapes of a transformer's two MLP matrices. The width side is the input of the first and the output of the second.
inline LayerShape up_shape() {
  return {"768 -> 3072", 3072, 768};
}
inline LayerShape down_shape() {
  return {"3072 -> 768", 768, 3072};
}

/// What all steps of a layer read and write: inputs, output gradients that differ from step to step so that supports
/// change, and the buffers of the engine. T stores tokens and, rounded from a master in float, the weight.
template <class Backend, class T = float>
class LayerData {
 public:
  using Context = typename Backend::Context;
  static constexpr index_t variety = 4;

  LayerData(Context& ctx, const LayerShape& s)
      : shape(s),
        y_(ctx, s.tokens * s.out),
        dx_(ctx, s.tokens * s.in),
        weight_(normal_matrix<Backend>(ctx, s.out, s.in, 0, 1)) {
    for (std::uint64_t i = 0; i < variety; ++i) {
      x_.push_back(stored_as<T>(ctx, normal_matrix<Backend>(ctx, s.tokens, s.in, 0.5F, 10 + i)));
      dy_.push_back(stored_as<T>(ctx, normal_matrix<Backend>(ctx, s.tokens, s.out, 1, 20 + i)));
    }
  }

  MatrixView<const T> x(index_t turn) const {
    return x_[static_cast<std::size_t>(turn % variety)].matrix(shape.tokens, shape.in);
  }
  MatrixView<const T> dy(index_t turn) const {
    return dy_[static_cast<std::size_t>(turn % variety)].matrix(shape.tokens, shape.out);
  }
  MatrixView<T> y() { return y_.matrix(shape.tokens, shape.out); }
  MatrixView<T> dx() { return dx_.matrix(shape.tokens, shape.in); }
  MatrixView<const float> first_weight() const { return weight_.matrix(shape.out, shape.in); }

  /// Operations of the dense step's three products.
  double dense_flops() const {
    return 6.0 * static_cast<double>(shape.tokens * shape.micro_batches) * static_cast<double>(shape.out) *
           static_cast<double>(shape.in);
  }
  /// What forward and dX read and write at least.
  double forward_and_dx_bytes() const {
    return 2 * static_cast<double>(shape.micro_batches) *
           product_bytes(shape.tokens, shape.out, shape.in, sizeof(T));
  }
  double x_bytes() const { return matrix_bytes(shape.tokens, shape.in, sizeof(T)); }

  const LayerShape shape;

 private:
  std::vector<Buffer<T, Backend>> x_;
  std::vector<Buffer<T, Backend>> dy_;
  Buffer<T, Backend> y_;
  Buffer<T, Backend> dx_;
  Buffer<float, Backend> weight_;
};

/// Dense fine-tuning: forward, dX, dW, AdamW.
template <class Backend, class T = float>
class DenseStep {
 public:
  using Context = typename Backend::Context;
  DenseStep(Context& ctx, LayerData<Backend, T>& data)
      : ctx_(ctx),
        data_(data),
        weight_(ctx, data.first_weight()),
        gradient_(ctx, weight_.size()),
        adam_(ctx, weight_.size()),
        bias_(ctx, data.shape.out) {}

  double flops() const { return data_.dense_flops(); }
  double bytes() const {
    const LayerShape& s = data_.shape;
    return data_.forward_and_dx_bytes() + adam_.traffic() +
           static_cast<double>(s.micro_batches) * token_sum_bytes(s.out, s.in, s.tokens, sizeof(T));
  }
  Memory memory() const {
    return {static_cast<double>(weight_.bytes()),
            static_cast<double>(gradient_.bytes()),
            static_cast<double>(adam_.bytes()),
            0,
            data_.x_bytes(),
            0};
  }

  void operator()() {
    const auto w = weight_.matrix(data_.shape.out, data_.shape.in);
    for (index_t i = 0; i < data_.shape.micro_batches; ++i, ++turn_) {
      const auto x = data_.x(turn_);
      const auto dy = data_.dy(turn_);
      Backend::template gemm<T>(ctx_, Op::none, Op::transpose, 1, x, w, 0, data_.y());
      Backend::template add_to_rows<T>(ctx_, bias_.value.data(), data_.y());
      Backend::template column_sums<T>(ctx_, dy, bias_.gradient.data());
      Backend::template gemm<T>(ctx_, Op::none, Op::none, 1, dy, w, 0, data_.dx());
      sum_over_tokens<Backend, T>(ctx_, 1, dy, x, i == 0 ? 0.0F : 1.0F,
                                  gradient_.matrix(data_.shape.out, data_.shape.in));
    }
    weight_.step(ctx_, adam_, gradient_.data());
    bias_.update(ctx_);
  }

 private:
  Context& ctx_;
  LayerData<Backend, T>& data_;
  Parameters<Backend, T> weight_;
  Buffer<float, Backend> gradient_;
  DenseAdamW<Backend, T> adam_;
  Bias<Backend, T> bias_;
  index_t turn_ = 0;
};

/// The library's step in a given basis: forward, dX, core gradient, top-k, SparseAdam, way back.
template <class Backend, class T = float>
class SparseStep {
 public:
  using Context = typename Backend::Context;
  using Basis = TuckerBasis<float, Backend>;

  /// Without a plan the layer chooses.
  SparseStep(Context& ctx, LayerData<Backend, T>& data, std::shared_ptr<const Basis> basis, index_t entries,
             std::optional<Plan> plan = {})
      : ctx_(ctx),
        data_(data),
        entries_(std::min(entries, basis->rows() * basis->cols())),
        weight_(ctx, data.first_weight()),
        bias_(ctx, data.shape.out),
        layer_(made(ctx, data.shape, weight_, bias_, plan)),
        adam_(ctx, basis->rows(), basis->cols(), {.capacity = 4 * entries_, .overflow = Overflow::go_dense}),
        gradient_(ctx, basis->rows(), basis->cols(), entries_),
        update_(ctx, basis->rows(), basis->cols(), entries_) {
    layer_.set_basis(ctx, std::move(basis));
    kept_.resize(ctx, data.shape.tokens * layer_.kept_cols());
    layer_.reserve(ctx, data.shape.tokens, entries_);
  }

  void operator()() {
    ctx_.scratch().forget_most_used();
    for (index_t i = 0; i < data_.shape.micro_batches; ++i, ++turn_) {
      const auto saved =
          layer_.forward(ctx_, data_.x(turn_), data_.y(),
                         kept_.matrix(kept_.empty() ? 0 : data_.shape.tokens, layer_.kept_cols()));
      layer_.backward(ctx_, data_.dy(turn_), saved, data_.dx(), bias_.gradient.data());
    }
    layer_.select(ctx_, TopK{entries_}, gradient_);
    adam_.step(ctx_, gradient_, {.learning_rate = learning_rate}, update_);
    layer_.apply(ctx_, update_);
    layer_.clear(ctx_);
    bias_.update(ctx_);
    scratch_ = ctx_.scratch().most_used();
  }

  /// Operations of the dense products: forward, dX, and the core gradient by the layer's plan.
  double flops() const {
    const auto& basis = *layer_.basis();
    const CostModel products{.transform_entry = 0};
    const double core = products.step(layer_.plan(), {basis.out().kind(), basis.out_extent(), basis.rows()},
                                      {basis.in().kind(), basis.in_extent(), basis.cols()},
                                      {data_.shape.tokens, data_.shape.micro_batches});
    return data_.dense_flops() * 2 / 3 + 2 * core;
  }
  double bytes() const {
    const double moments = 6 * static_cast<double>(gradient_.bytes());
    return data_.forward_and_dx_bytes() +
           core_bytes(layer_.plan(), *layer_.basis(), data_.shape.tokens, data_.shape.micro_batches,
                      sizeof(T)) +
           static_cast<double>(layer_.gradient_bytes()) + moments + 2 * static_cast<double>(weight_.bytes());
  }
  Memory memory() const {
    return {static_cast<double>(weight_.bytes()),
            static_cast<double>(layer_.gradient_bytes() + gradient_.bytes() + update_.bytes()),
            static_cast<double>(adam_.bytes()),
            static_cast<double>(layer_.basis()->bytes()),
            kept_.empty() ? data_.x_bytes() : static_cast<double>(kept_.bytes()),
            static_cast<double>(scratch_)};
  }

 private:
  using Layer = SparseGradLinear<T, Backend>;
  static Layer made(Context& ctx, const LayerShape& shape, Parameters<Backend, T>& weight,
                    const Bias<Backend, T>& bias, std::optional<Plan> plan) {
    const LinearOptions options{.plan = plan, .workload = {shape.tokens, shape.micro_batches}};
    const auto w = weight.matrix(shape.out, shape.in);
    if constexpr (is_low_precision<T>) {
      return Layer(ctx, w, weight.master().matrix(shape.out, shape.in), bias.value.data(), options);
    } else {
      return Layer(ctx, w, bias.value.data(), options);
    }
  }

  Context& ctx_;
  LayerData<Backend, T>& data_;
  index_t entries_;
  Parameters<Backend, T> weight_;
  Bias<Backend, T> bias_;
  Layer layer_;
  SparseAdam<float, Backend> adam_;
  SparseGradient<float, Backend> gradient_;
  SparseGradient<float, Backend> update_;
  Buffer<T, Backend> kept_;
  index_t scratch_ = 0;
  index_t turn_ = 0;
};

/// The order of the paper's own layer: W~ = V^T W U is what is trained, and every token goes through both rotations,
/// forward and backward. Optimizer moments are dense. In float alone, as that layer is.
template <class Backend>
class InBasisStep {
 public:
  using Context = typename Backend::Context;
  using Basis = TuckerBasis<float, Backend>;

  InBasisStep(Context& ctx, LayerData<Backend>& data, std::shared_ptr<const Basis> basis)
      : ctx_(ctx),
        data_(data),
        basis_(std::move(basis)),
        weight_(ctx, data.shape.out * data.shape.in),
        core_(ctx, data.shape.out * data.shape.in),
        x_u_(ctx, data.shape.tokens * data.shape.in),
        y_v_(ctx, data.shape.tokens * data.shape.out),
        dy_v_(ctx, data.shape.tokens * data.shape.out),
        dx_u_(ctx, data.shape.tokens * data.shape.in),
        bias_(ctx, data.shape.out),
        adam_(ctx, data.shape.out, data.shape.in),
        gradient_(ctx, data.shape.out, data.shape.in, data.shape.entries),
        update_(ctx, data.shape.out, data.shape.in, data.shape.entries),
        sums_(ctx, data.shape.entries) {
    basis_->project(ctx, data.first_weight(), w());
  }

  double flops() const {
    const auto o = static_cast<double>(data_.shape.out);
    const auto i = static_cast<double>(data_.shape.in);
    const auto tokens = static_cast<double>(data_.shape.tokens * data_.shape.micro_batches);
    return data_.dense_flops() + 4 * tokens * (o * o + i * i);
  }
  double bytes() const {
    const index_t tokens = data_.shape.tokens;
    const double rotations = 2 * product_bytes(tokens, data_.shape.in, data_.shape.in) +
                             2 * product_bytes(tokens, data_.shape.out, data_.shape.out);
    return 1.5 * data_.forward_and_dx_bytes() + static_cast<double>(data_.shape.micro_batches) * rotations +
           static_cast<double>(core_.bytes()) + 6 * static_cast<double>(gradient_.bytes());
  }
  Memory memory() const {
    return {static_cast<double>(weight_.bytes()),
            static_cast<double>(core_.bytes() + gradient_.bytes() + update_.bytes()),
            static_cast<double>(adam_.bytes()),
            static_cast<double>(basis_->bytes()),
            static_cast<double>(x_u_.bytes()),
            static_cast<double>(std::max(y_v_.bytes(), dy_v_.bytes() + dx_u_.bytes()))};
  }

  void operator()() {
    const index_t tokens = data_.shape.tokens;
    const auto xu = x_u_.matrix(tokens, data_.shape.in);
    const auto yv = y_v_.matrix(tokens, data_.shape.out);
    const auto dyv = dy_v_.matrix(tokens, data_.shape.out);
    const auto dxu = dx_u_.matrix(tokens, data_.shape.in);
    const auto core = core_.matrix(data_.shape.out, data_.shape.in);
    for (index_t i = 0; i < data_.shape.micro_batches; ++i, ++turn_) {
      const auto dy = data_.dy(turn_);
      basis_->in().project_columns(ctx_, data_.x(turn_), xu);
      Backend::template gemm<float>(ctx_, Op::none, Op::transpose, 1, xu, w(), 0, yv);
      basis_->out().expand_columns(ctx_, yv, 0, data_.y());
      Backend::template add_to_rows<float>(ctx_, bias_.value.data(), data_.y());
      Backend::template column_sums<float>(ctx_, dy, bias_.gradient.data());
      basis_->out().project_columns(ctx_, dy, dyv);
      Backend::template gemm<float>(ctx_, Op::none, Op::none, 1, dyv, w(), 0, dxu);
      basis_->in().expand_columns(ctx_, dxu, 0, data_.dx());
      Backend::template gemm<float>(ctx_, Op::transpose, Op::none, 1, dyv, xu, i == 0 ? 0.0F : 1.0F, core);
    }
    TopK{data_.shape.entries}(ctx_, core, gradient_);
    adam_.step(ctx_, gradient_, {.learning_rate = learning_rate}, update_);
    Backend::template gather<float>(ctx_, weight_.data(), update_.indices(), update_.count(), sums_.data());
    Backend::template add<float>(ctx_, 1, MatrixView<const float>(update_.values(), 1, update_.count()),
                                 sums_.matrix(1, update_.count()));
    Backend::template scatter<float>(ctx_, sums_.data(), update_.indices(), update_.count(), weight_.data());
    bias_.update(ctx_);
  }

 private:
  MatrixView<float> w() { return weight_.matrix(data_.shape.out, data_.shape.in); }

  Context& ctx_;
  LayerData<Backend>& data_;
  std::shared_ptr<const Basis> basis_;
  Buffer<float, Backend> weight_;
  Buffer<float, Backend> core_;
  Buffer<float, Backend> x_u_;
  Buffer<float, Backend> y_v_;
  Buffer<float, Backend> dy_v_;
  Buffer<float, Backend> dx_u_;
  Bias<Backend> bias_;
  SparseAdam<float, Backend> adam_;
  SparseGradient<float, Backend> gradient_;
  SparseGradient<float, Backend> update_;
  Buffer<float, Backend> sums_;
  index_t turn_ = 0;
};

}  // namespace sparsegrad::bench
