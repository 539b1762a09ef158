// What the reference's code does in place of the method, for replicating its runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/sparse_grad_group.hpp>

#include "models/encoder/encoder_model.hpp"

namespace sparsegrad::finetune {

/// Selector: every entry whose absolute value reaches the k-th largest signed value. That keeps about 2 k of entries as
/// often negative as positive, and all of them when fewer than k are positive; here the largest, should they be more than
/// the sparse gradient's capacity. Counts on the host.
template <class Backend>
struct SignedThreshold {
  index_t k = 0;

  SelectReport operator()(typename Backend::Context& ctx, ConstMatrixView<float> core,
                          SparseGradient<float, Backend>& s) const {
    std::vector<float> ordered(static_cast<std::size_t>(core.size()));
    Backend::template download<float>(ctx, core.data, ordered.data(), core.size());
    const auto place = ordered.begin() + std::clamp<index_t>(k - 1, 0, core.size() - 1);
    std::nth_element(ordered.begin(), place, ordered.end(), std::greater<>());
    const float threshold = *place;
    const auto count = static_cast<index_t>(
        std::count_if(ordered.begin(), ordered.end(), [&](float g) { return std::abs(g) >= threshold; }));
    return TopK{std::min(count, s.capacity())}(ctx, core, s);
  }
};

/// Every basis of the group with U^T in place of U; layers that share one go on sharing one.
template <class T, class Backend>
void transpose_input_sides(typename Backend::Context& ctx, SparseGradGroup<T, Backend>& group) {
  std::map<const void*, std::shared_ptr<const TuckerBasis<float, Backend>>> made;
  for (index_t i = 0; i < group.size(); ++i) {
    const auto fitted = group.basis(i);
    auto& transposed = made[fitted.get()];
    if (transposed == nullptr) transposed = fitted->with_transposed_input(ctx);
    group.set_basis(ctx, i, transposed);
  }
}

/// Of every MLP matrix whose output side rotates: db <- V^T db, as if the bias's gradient had been summed from dY V.
template <class T, class Backend>
void rotate_bias_gradients(typename Backend::Context& ctx, EncoderModel<T, Backend>& model) {
  index_t number = 0;
  for (const auto& layer : model.mlp()) {
    std::string name = model.mlp_name(number++);
    name.replace(name.rfind("weight"), 6, "bias");
    const Parameter<T>& bias = model.parameters().at(name);
    const auto& side = layer.basis()->out();
    if (bias.gradient.empty() || !side.rotates()) continue;
    const MatrixView<float> db(bias.gradient.data, 1, bias.gradient.size());
    auto frame = ctx.frame();
    const MatrixView<float> target = frame.template matrix<float>(1, db.cols);
    side.project_columns(ctx, db, target);
    Backend::template copy<float>(ctx, target, db);
  }
}

}  // namespace sparsegrad::finetune
