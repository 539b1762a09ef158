#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "models/encoder/model_config.hpp"
#include "models/layers/layer_ops.hpp"
#include "models/layers/linear.hpp"
#include "models/layers/step_profile.hpp"

namespace sparsegrad::finetune {

/// pooled = tanh(first W^T + b), where `first` [sequences, hidden] are the rows of the sequences' first tokens.
template <class T, class Backend>
struct Pooler {
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  Linear<T, Backend> dense;
  const C* bias = nullptr;
  C* d_bias = nullptr;

  void forward(Context& ctx, MatrixView<const T> first, MatrixView<T> pooled) const {
    const HeadScope scope(ctx);
    dense.forward(ctx, first, pooled);
    LayerOps<Backend>::template tanh_forward<T>(ctx, bias, pooled);
  }
  /// `g` = d pooled is overwritten by the gradient before tanh.
  void backward(Context& ctx, MatrixView<const T> first, MatrixView<const T> pooled, MatrixView<T> g,
                MatrixView<T> d_first) const {
    const HeadScope scope(ctx);
    LayerOps<Backend>::template tanh_backward<T>(ctx, pooled, g);
    if (d_bias != nullptr) Backend::template column_sums<T>(ctx, g, d_bias);
    dense.backward(ctx, g, first, C(0), d_first);
  }
};

/// logits = dropout(pooled) W^T + b; `dropped` [sequences, hidden] keeps dropout(pooled). Logits are never rounded to a
/// narrow T; their gradient is, where products read it.
template <class T, class Backend>
struct ClassificationHead {
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  Linear<T, Backend> dense;
  const C* bias = nullptr;
  C* d_bias = nullptr;

  void forward(Context& ctx, const Dropout<C>& dropout, MatrixView<const T> pooled, MatrixView<T> dropped,
               MatrixView<C> logits) const {
    const HeadScope scope(ctx);
    Backend::template copy<T>(ctx, pooled, dropped);
    LayerOps<Backend>::template apply_mask<T>(ctx, dropout, dropped);
    wide_product<T, Backend>(ctx, Op::none, Op::transpose, C(1), dropped, dense.weight, C(0), logits);
    Backend::template add_to_rows<C>(ctx, bias, logits);
  }
  void backward(Context& ctx, const Dropout<C>& dropout, MatrixView<const T> dropped,
                MatrixView<const C> d_logits, MatrixView<T> d_pooled) const {
    const HeadScope scope(ctx);
    if (d_bias != nullptr) Backend::template column_sums<C>(ctx, d_logits, d_bias);
    if constexpr (is_low_precision<T>) {
      auto frame = ctx.frame();
      const MatrixView<T> rounded = frame.template matrix<T>(d_logits.rows, d_logits.cols);
      Backend::template round_to<T>(ctx, d_logits, rounded);
      dense.backward(ctx, rounded, dropped, C(0), d_pooled);
    } else {
      dense.backward(ctx, d_logits, dropped, C(0), d_pooled);
    }
    LayerOps<Backend>::template apply_mask<T>(ctx, dropout, d_pooled);
  }
};

/// Mean over the sequences of -log softmax(logits)[label] or, for regression, of (logit - label)^2; `d_logits`
/// receives its gradient. Both are in host memory. Throws ModelError for a label that is no class.
template <class T>
double loss_of(ProblemType problem, MatrixView<const T> logits, const std::vector<float>& labels,
               MatrixView<T> d_logits) {
  if (logits.rows == 0) return 0;
  const double share = 1.0 / static_cast<double>(logits.rows);
  double loss = 0;
  for (index_t i = 0; i < logits.rows; ++i) {
    const float label = labels[static_cast<std::size_t>(i)];
    if (problem == ProblemType::regression) {
      const double difference = static_cast<double>(logits(i, 0)) - static_cast<double>(label);
      loss += share * difference * difference;
      d_logits(i, 0) = static_cast<T>(2 * share * difference);
      continue;
    }
    const auto wanted = static_cast<index_t>(label);
    if (!(label >= 0) || static_cast<float>(wanted) != label || wanted >= logits.cols) {
      throw ModelError("batch: the label " + std::to_string(label) + " of sequence " + std::to_string(i) +
                       " is none of the " + std::to_string(logits.cols) + " classes");
    }
    double top = static_cast<double>(logits(i, 0));
    for (index_t c = 1; c < logits.cols; ++c)
      top = std::max(top, static_cast<double>(logits(i, c)));
    double sum = 0;
    for (index_t c = 0; c < logits.cols; ++c)
      sum += std::exp(static_cast<double>(logits(i, c)) - top);
    for (index_t c = 0; c < logits.cols; ++c) {
      const double probability = std::exp(static_cast<double>(logits(i, c)) - top) / sum;
      d_logits(i, c) = static_cast<T>(share * (probability - (c == wanted ? 1.0 : 0.0)));
    }
    loss += share * (top + std::log(sum) - static_cast<double>(logits(i, wanted)));
  }
  return loss;
}

}  // namespace sparsegrad::finetune
