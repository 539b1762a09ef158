#pragma once

#include <memory>
#include <string_view>

#include "checkpoints/model_weights.hpp"
#include "models/parameters/packed_matrix.hpp"

namespace sparsegrad::finetune {

/// A decoder's matrix in the elements of its safetensors file, which is mapped: F32, F16 or BF16; null where it has another
/// type. Throws ModelError or IoError naming the tensor: one that is missing or of another shape.
std::shared_ptr<const PackedMatrix> folder_packed(std::shared_ptr<const ModelWeights> weights,
                                                  std::string_view parameter, index_t rows, index_t cols);

/// Throws ModelError naming the tensor, by its name in the files, where a packed parameter has NaN or Inf.
void require_finite(const ModelWeights& weights, std::string_view name, const PackedMatrix& packed);

}  // namespace sparsegrad::finetune
