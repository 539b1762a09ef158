// The cost model's weights (plan.hpp) from the times of a layer's parts.
#pragma once

#include <sparsegrad/plan.hpp>

#include <array>

#include "layer_cases.hpp"

namespace sparsegrad::bench {

/// The parts (part_cases.hpp) that the weights follow from.
inline constexpr std::array model_parts{"dW, dense product", "fast transform of rows",
                                        "fast transform of columns", "sparse rows times a factor"};

struct PartTime {
  double seconds = 0;
  double flops = 0;
};

/// `time_of(name)` gives the PartTime of a part at this shape.
template <class TimeOf>
CostModel measured_model(const LayerShape& shape, TimeOf&& time_of) {
  const auto a_multiply_add = [](const PartTime& t) { return t.seconds / (0.5 * t.flops); };
  const double unit = a_multiply_add(time_of(model_parts[0]));
  const double transforms = time_of(model_parts[1]).seconds + time_of(model_parts[2]).seconds;
  return {.transform_entry = transforms / (2 * static_cast<double>(shape.out * shape.in)) / unit,
          .sparse_entry = a_multiply_add(time_of(model_parts[3])) / unit};
}

}  // namespace sparsegrad::bench
