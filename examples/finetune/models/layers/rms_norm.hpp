#pragma once

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// y = gamma x rstd with rstd = 1 / sqrt(mean(x^2) + eps), row by row.
template <class T>
struct RmsNorm {
  const T* gamma = nullptr;
  T* d_gamma = nullptr;  ///< null: frozen
  T eps = T(1e-6);
};

}  // namespace sparsegrad::finetune
