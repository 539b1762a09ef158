#pragma once

#include <string>

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/low_precision.hpp>

namespace sparsegrad::finetune {

/// The factor of the loss that lifts gradients into half's range, where they would else be lost below 2^-24. Dynamic as
/// torch.amp.GradScaler, whose defaults the constants are (the method: Micikevicius et al., "Mixed Precision Training",
/// 2018, section 3.2): a step whose gradients hold NaN or Inf is left out and halves it, `interval` whole steps in a row
/// double it. Powers of two, so that scaling rounds nothing.
struct LossScale {
  static constexpr double start = 65536;
  static constexpr index_t interval = 2000;

  double scale = 1;
  index_t whole_steps = 0;  ///< since the scale has changed

  /// Only half needs one: bfloat16 has float's range.
  template <class T>
  static constexpr bool needed = std::is_same_v<T, float16>;
  template <class T>
  static LossScale of() {
    return {needed<T> ? start : 1, 0};
  }

  void count_whole_step() {
    if (++whole_steps < interval) return;
    scale *= 2;
    whole_steps = 0;
  }
  /// Throws NonFiniteError when it is not for the scale that the gradients are not finite.
  void count_overflow() {
    if (scale <= 1) {
      throw NonFiniteError("the gradients hold NaN or Inf at the loss scale " + std::to_string(scale) +
                           ", expected finite ones; the learning rate may be too large");
    }
    scale /= 2;
    whole_steps = 0;
  }
};

}  // namespace sparsegrad::finetune
