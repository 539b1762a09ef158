#pragma once

#include <memory>
#include <string>

#include <sparsegrad/core/config.hpp>

#include "models/parameters/packed_matrix.hpp"

namespace sparsegrad::finetune {

/// What a parameter is to the optimizers.
enum class ParameterKind {
  dense,  ///< trained by a dense optimizer
  mlp_matrix,  ///< a weight of an MLP, or any of a decoder's seven: its gradient, if any, belongs to its SparseGradLinear
  adapter,  ///< LoRA's A and B: dense, in no file
};

/// A parameter before it has memory.
struct ParameterShape {
  std::string name;
  index_t rows = 0;
  index_t cols = 0;
  ParameterKind kind = ParameterKind::dense;
  bool joined = false;            ///< follows its predecessor without a gap
  bool read_by_products = false;  ///< an embeddings' table that is the head's matrix as well
  std::shared_ptr<const PackedMatrix> packed = nullptr;  ///< given: takes no memory, and is not trained

  /// Stored with one dimension: biases and norms.
  bool is_vector() const {
    return name.ends_with(".bias") || name.find("LayerNorm.") != std::string::npos ||
           name.ends_with("norm.weight");
  }
  /// An operand of matrix products, unlike vectors and the embeddings' tables.
  bool is_factor() const {
    const bool table = name.find("embeddings.") != std::string::npos || name.ends_with("embed_tokens.weight");
    return !is_vector() && (!table || read_by_products);
  }
};

}  // namespace sparsegrad::finetune
