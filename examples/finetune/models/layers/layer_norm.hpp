#pragma once

#include <sparsegrad/core/view.hpp>

namespace sparsegrad::finetune {

/// y = gamma * xhat + beta with xhat = (z - mean z) / sqrt(var z + eps), row by row.
template <class T>
struct LayerNorm {
  const T* gamma = nullptr;
  const T* beta = nullptr;
  T* d_gamma = nullptr;  ///< null: frozen
  T* d_beta = nullptr;
  T eps = T(1e-12);
};

}  // namespace sparsegrad::finetune
