#pragma once

#include <cstdint>
#include <vector>

#include "models/layers/random.hpp"
#include "models/mlp/lora.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// A parameter's values as transformers initialises them: norms 1, biases 0, adapters as LoRA says, all else normal
/// (0, range). Rows of padding are the model's to clear.
template <class T>
std::vector<compute_t<T>> initial_values(const Parameter<T>& p, double range, LoraInit lora_init,
                                         std::uint64_t key) {
  using C = compute_t<T>;
  const auto count = static_cast<std::size_t>(p.weight.size());
  if (p.is_bias_or_norm()) return std::vector<C>(count, p.name.ends_with(".weight") ? C(1) : C(0));
  if (p.kind == ParameterKind::adapter) {
    return initial_adapter<C>(p.name.ends_with(".lora_A.weight"), lora_init, p.weight.rows, p.weight.cols,
                              key);
  }
  std::vector<C> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<C>(range * normal_at(key, i));
  return values;
}

}  // namespace sparsegrad::finetune
