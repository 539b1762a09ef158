// From options to the library's group of layers.
#pragma once

#include <memory>

#include "training/evaluation/evaluator.hpp"
#include "training/options.hpp"

namespace sparsegrad::glue {

using SparseGroup = SparseGradGroup<float, backend::CpuBlas>;

/// The kind of MLP matrix number i of a model: "up" or "down".
inline const char* mlp_kind(index_t number) {
  return number % 2 == 0 ? "up" : "down";
}

/// A group of the model's MLP matrices, in their order. `workload` is what the cost model assumes of a step.
template <class T, class Backend>
std::unique_ptr<SparseGradGroup<T, Backend>> make_group(typename Backend::Context& ctx,
                                                        EncoderModel<T, Backend>& model,
                                                        const SparseOptions& options,
                                                        const Workload& workload, bool share_gradient_memory);

BasisRecipe make_recipe(const SparseOptions& options);

}  // namespace sparsegrad::glue
