// What the reference's code does in place of the method, for replicating its runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "train/sparse_setup.hpp"

namespace sparsegrad::glue {

/// Selector: every entry whose absolute value reaches the k-th largest signed value. That keeps about 2 k of entries as
/// often negative as positive, and all of them when fewer than k are positive; here the largest, should they be more than
/// the sparse gradient's capacity. The core is in host memory.
struct SignedThreshold {
  index_t k = 0;

  SelectReport operator()(GlueContext& ctx, MatrixView<float> core,
                          SparseGradient<float, backend::CpuBlas>& s, NonFinite policy) const {
    std::vector<float> ordered(core.data, core.data + core.size());
    const auto place = ordered.begin() + std::clamp<index_t>(k - 1, 0, core.size() - 1);
    std::nth_element(ordered.begin(), place, ordered.end(), std::greater<>());
    const float threshold = *place;
    const auto count = static_cast<index_t>(
        std::count_if(core.data, core.data + core.size(), [&](float g) { return std::abs(g) >= threshold; }));
    return TopK{std::min(count, s.capacity())}(ctx, core, s, policy);
  }
};

/// Every basis of the group with U^T in place of U; layers that share one go on sharing one.
void transpose_input_sides(GlueContext& ctx, SparseGroup& group);

/// Of every MLP matrix whose output side rotates: db <- V^T db, as if the bias's gradient had been summed from dY V.
void rotate_bias_gradients(GlueContext& ctx, Model& model);

}  // namespace sparsegrad::glue
