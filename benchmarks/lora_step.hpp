// The step of a layer whose weight is frozen beside a LoRA adapter.
#pragma once

#include "layer_steps.hpp"

namespace sparsegrad::bench {

/// LoRA (Hu et al., 2021) beside a frozen weight: y = x W^T + b + scale (x A^T) B^T, A [r, in], B [out, r]; AdamW on A
/// and B.
template <class Backend, class T = float>
class LoraStep {
 public:
  using Context = typename Backend::Context;
  LoraStep(Context& ctx, LayerData<Backend, T>& data, index_t rank)
      : ctx_(ctx),
        data_(data),
        rank_(rank),
        weight_(stored_as<T>(ctx, normal_matrix<Backend>(ctx, data.shape.out, data.shape.in, 0, 1))),
        a_(ctx, normal_matrix<Backend>(ctx, rank, data.shape.in, 0, 51)),
        b_(ctx, normal_matrix<Backend>(ctx, data.shape.out, rank, 0, 52)),
        da_(ctx, a_.size()),
        db_(ctx, b_.size()),
        xa_(ctx, data.shape.tokens * rank),
        dyb_(ctx, data.shape.tokens * rank),
        adam_a_(ctx, a_.size()),
        adam_b_(ctx, b_.size()),
        bias_(ctx, data.shape.out) {}

  double flops() const {
    const auto tokens = static_cast<double>(data_.shape.tokens * data_.shape.micro_batches);
    return data_.dense_flops() * 2 / 3 + 6 * tokens * static_cast<double>(a_.size() + b_.size());
  }
  double bytes() const {
    const index_t tokens = data_.shape.tokens;
    const double thin = 3 * (product_bytes(tokens, rank_, data_.shape.in, sizeof(T)) +
                             product_bytes(tokens, rank_, data_.shape.out, sizeof(T)));
    return data_.forward_and_dx_bytes() + static_cast<double>(data_.shape.micro_batches) * thin +
           adam_a_.traffic() + adam_b_.traffic();
  }
  Memory memory() const {
    const auto factors = static_cast<double>(a_.bytes() + b_.bytes());
    return {static_cast<double>(weight_.bytes()),
            static_cast<double>(da_.bytes() + db_.bytes()),
            static_cast<double>(adam_a_.bytes() + adam_b_.bytes()),
            factors,
            data_.x_bytes() + static_cast<double>(xa_.bytes()),
            static_cast<double>(dyb_.bytes())};
  }

  MatrixView<T> a() { return a_.matrix(rank_, data_.shape.in); }
  MatrixView<T> b() { return b_.matrix(data_.shape.out, rank_); }
  MatrixView<float> da() { return da_.matrix(rank_, data_.shape.in); }
  MatrixView<float> db() { return db_.matrix(data_.shape.out, rank_); }

  /// y, dX and, added to what they hold, the factors' gradients.
  void micro_batch(MatrixView<const T> x, MatrixView<const T> dy, bool first) {
    const MatrixView<const T> w(weight_.data(), data_.shape.out, data_.shape.in);
    const auto xa = xa_.matrix(data_.shape.tokens, rank_);
    const auto dyb = dyb_.matrix(data_.shape.tokens, rank_);
    const float sum = first ? 0.0F : 1.0F;
    Backend::template gemm<T>(ctx_, Op::none, Op::transpose, 1, x, w, 0, data_.y());
    Backend::template add_to_rows<T>(ctx_, bias_.value.data(), data_.y());
    Backend::template gemm<T>(ctx_, Op::none, Op::transpose, 1, x, a(), 0, xa);
    Backend::template gemm<T>(ctx_, Op::none, Op::transpose, scale, xa, b(), 1, data_.y());
    Backend::template column_sums<T>(ctx_, dy, bias_.gradient.data());
    Backend::template gemm<T>(ctx_, Op::none, Op::none, 1, dy, w, 0, data_.dx());
    Backend::template gemm<T>(ctx_, Op::none, Op::none, 1, dy, b(), 0, dyb);
    Backend::template gemm<T>(ctx_, Op::none, Op::none, scale, dyb, a(), 1, data_.dx());
    sum_over_tokens<Backend, T>(ctx_, scale, dy, xa, sum, db());
    sum_over_tokens<Backend, T>(ctx_, scale, dyb, x, sum, da());
  }

  void operator()() {
    for (index_t i = 0; i < data_.shape.micro_batches; ++i, ++turn_)
      micro_batch(data_.x(turn_), data_.dy(turn_), i == 0);
    a_.step(ctx_, adam_a_, da_.data());
    b_.step(ctx_, adam_b_, db_.data());
    bias_.update(ctx_);
  }

  static constexpr float scale = 0.5F;

 private:
  Context& ctx_;
  LayerData<Backend, T>& data_;
  index_t rank_;
  Buffer<T, Backend> weight_;
  Parameters<Backend, T> a_;
  Parameters<Backend, T> b_;
  Buffer<float, Backend> da_;
  Buffer<float, Backend> db_;
  Buffer<T, Backend> xa_;   ///< x A^T, kept for backward
  Buffer<T, Backend> dyb_;  ///< dY B
  DenseAdamW<Backend, T> adam_a_;
  DenseAdamW<Backend, T> adam_b_;
  Bias<Backend, T> bias_;
  index_t turn_ = 0;
};

}  // namespace sparsegrad::bench
