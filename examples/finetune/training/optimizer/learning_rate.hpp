// Learning rates over time.
#pragma once

#include <algorithm>
#include <cmath>

#include "training/options.hpp"

namespace sparsegrad::finetune {

/// Factor of the learning rate at step 0, 1, ... of `total`, as transformers' schedules: a warm-up rises linearly from
/// 0; then constant, or linearly down to 0 at `total`.
class LearningRate {
 public:
  LearningRate(Schedule schedule, double warmup, index_t total)
      : schedule_(schedule),
        total_(static_cast<double>(total)),
        warmup_(warmup < 1 ? std::floor(warmup * static_cast<double>(total)) : std::floor(warmup)) {}

  double factor(index_t step) const {
    const auto t = static_cast<double>(step);
    if (t < warmup_) return t / std::max(1.0, warmup_);
    if (schedule_ == Schedule::constant) return 1;
    return std::max(0.0, (total_ - t) / std::max(1.0, total_ - warmup_));
  }

 private:
  Schedule schedule_;
  double total_;
  double warmup_;
};

}  // namespace sparsegrad::finetune
