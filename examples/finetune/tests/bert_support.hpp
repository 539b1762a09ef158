// Reading the goldens of golden/make_bert_goldens.py.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include "models/host_backend.hpp"

#include "checkpoints/hf_directory.hpp"
#include "golden_batch.hpp"
#include "models/encoder/encoder_model.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune::test {

/// What AdamW trains: every dense gradient, and the MLP layers' cores (once `core` was called on all of them).
template <class T, class Backend>
std::vector<typename AdamW<T, Backend>::Segment> dense_segments(typename Backend::Context& ctx,
                                                                EncoderModel<T, Backend>& model,
                                                                double decay) {
  std::vector<typename AdamW<T, Backend>::Segment> segments;
  for (auto& p : model.parameters().all()) {
    if (!p.gradient.empty())
      segments.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(), decay, p.rounded.data});
  }
  for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
    auto& layer = model.mlp()[static_cast<std::size_t>(i)];
    const MatrixView<compute_t<T>> core = layer.core(ctx);
    const Parameter<T>& p = model.parameters().at(model.mlp_name(i));
    segments.push_back({p.name, p.weight.data, core.data, core.size(), decay, p.rounded.data});
    layer.clear(ctx);
  }
  return segments;
}

/// Zeroes all gradients.
template <class T, class Backend>
void clear_gradients(typename Backend::Context& ctx, EncoderModel<T, Backend>& model) {
  model.parameters().zero_gradients(ctx);
  for (auto& layer : model.mlp())
    layer.clear(ctx);
}

/// The gradient of a parameter, wherever it is kept.
template <class T, class Backend>
MatrixView<compute_t<T>> gradient_of(typename Backend::Context& ctx, EncoderModel<T, Backend>& model,
                                     const std::string& name) {
  for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
    if (model.mlp_name(i) == name) return model.mlp()[static_cast<std::size_t>(i)].core(ctx);
  }
  return model.parameters().at(name).gradient;
}

}  // namespace sparsegrad::finetune::test
