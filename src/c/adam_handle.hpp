// AdamHandle: an Adam of one core of one backend behind the C interface.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/core/number.hpp>
#include <sparsegrad/sparse_adam.hpp>

#include "conversions.hpp"
#include "handles.hpp"
#include "machine.hpp"

namespace sparsegrad::c {

template <class B>
class AdamHandle final : public AnyAdam {
 public:
  AdamHandle(std::shared_ptr<Machine<B>> machine, std::int64_t rows, std::int64_t cols,
             const sparsegrad_adam_options& options)
      : machine_(std::move(machine)), adam_(machine_->ctx, rows, cols, adam_options(options)) {}

  sparsegrad_adam_info describe() const override {
    return {.rows = adam_.rows(),
            .cols = adam_.cols(),
            .steps = adam_.steps(),
            .entries = adam_.size(),
            .bytes = adam_.bytes()};
  }

  void step(const std::int32_t* positions, const float* values, std::int64_t count,
            const sparsegrad_step_options& options, const sparsegrad_matrix& update) override {
    if (count < 0) throw ValueError("count is " + std::to_string(count) + ", expected >= 0");
    if (count > 0) {
      require_pointer("positions", positions);
      require_pointer("values", values);
    }
    if (options.weight_decay != 0) {
      throw ValueError("weight_decay is " + number_text(options.weight_decay) +
                       ", expected 0: it acts on the weight itself");
    }
    const MatrixView<float> to = view<float>("the update", update);
    require_shape("the update", to.rows, to.cols, adam_.rows(), adam_.cols(), "rows x cols of the core");
    const auto n = static_cast<std::size_t>(count);
    for (std::size_t e = 0; e < n; ++e) {
      if (is_finite(values[e])) continue;
      throw NonFiniteError("value " + std::to_string(e) + " is " + number_text(values[e]) +
                           ", expected finite numbers");
    }
    auto& ctx = machine_->ctx;
    SparseGradient<float, B> s(ctx, adam_.rows(), adam_.cols(), count);
    s.assign(ctx, std::span(positions, n), std::span(values, n));
    SparseGradient<float, B> d(ctx, adam_.rows(), adam_.cols(), adam_.update_capacity(count));
    const StepOptions numbers{.learning_rate = options.learning_rate, .grad_scale = options.grad_scale};
    adam_.step(ctx, s, numbers, d);
    for (index_t i = 0; i < to.rows; ++i)
      std::fill_n(&to(i, 0), to.cols, 0.0F);
    const std::vector<stored_index_t> at = d.positions(ctx);
    for (std::size_t e = 0; e < at.size(); ++e)
      to(at[e] / to.cols, at[e] % to.cols) = d.values()[e];
  }

 private:
  std::shared_ptr<Machine<B>> machine_;
  SparseAdam<float, B> adam_;
};

}  // namespace sparsegrad::c
