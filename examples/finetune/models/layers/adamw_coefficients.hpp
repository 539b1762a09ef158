#pragma once

#include <cmath>
#include <cstdint>

#include <sparsegrad/core/config.hpp>
#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

namespace sparsegrad::finetune {

/// What AdamW's update of an element needs of the step (see adamw.hpp).
template <class T>
struct AdamWCoefficients {
  T keep;  ///< 1 - lr decay
  T beta1, one_minus_beta1, beta2, one_minus_beta2, grad_scale;
  T step_size;     ///< lr / (1 - beta1^t)
  T inverse_root;  ///< 1 / sqrt(1 - beta2^t)
  T eps;

  SPARSEGRAD_HOST_DEVICE void update(T& w, T g, T& m, T& v) const {
    const T gradient = g * grad_scale;
    m = beta1 * m + one_minus_beta1 * gradient;
    v = beta2 * v + one_minus_beta2 * (gradient * gradient);
    const T denominator = std::sqrt(v) * inverse_root + eps;
    w = w * keep - step_size * (m / denominator);
  }
};

/// What is known of the moments of a block of elements.
enum class MomentsState : std::uint8_t { unknown, zeros, others };

/// A piece of an array that is trained: what one task, or one launch, updates.
template <class T>
struct AdamWPiece {
  using C = compute_t<T>;
  AdamWCoefficients<C> coefficients;
  index_t count = 0;
  C* weight = nullptr;
  C* gradient = nullptr;
  C* first = nullptr;  ///< moments
  C* second = nullptr;
  T* rounded = nullptr;  ///< of a narrow T: receives the new weight, unless it is null
  MomentsState* states =
      nullptr;  ///< on the CPU: of each block of elements (LayerOps::adamw_block); null: unknown
};

}  // namespace sparsegrad::finetune
