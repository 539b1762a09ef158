#include "models/layers/rope.hpp"

#include <cmath>

namespace sparsegrad::finetune {

std::string_view to_string(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::linear:
      return "linear";
    case RopeScaling::llama3:
      return "llama3";
    default:
      return "default";
  }
}

std::vector<float> rope_frequencies(const RopeConfig& config, index_t head_size) {
  constexpr double two_pi = 6.283185307179586;
  std::vector<float> frequencies;
  for (index_t j = 0; j < head_size / 2; ++j) {
    double f = std::pow(config.base, -2.0 * static_cast<double>(j) / static_cast<double>(head_size));
    if (config.scaling == RopeScaling::linear) f /= config.factor;
    if (config.scaling == RopeScaling::llama3) {
      // Turns of the angle over the positions that the model was first trained with.
      const double turns = static_cast<double>(config.original_max_positions) * f / two_pi;
      const double low = config.low_frequency_factor;
      const double high = config.high_frequency_factor;
      if (turns < low) {
        f /= config.factor;
      } else if (turns <= high) {
        const double smooth = (turns - low) / (high - low);
        f = (1 - smooth) * f / config.factor + smooth * f;
      }
    }
    frequencies.push_back(static_cast<float>(f));
  }
  return frequencies;
}

template <class C>
void fill_rope_table(const std::vector<float>& frequencies, index_t rows, std::vector<C>& cosines,
                     std::vector<C>& sines) {
  cosines.clear();
  sines.clear();
  for (index_t position = 0; position < rows; ++position) {
    for (const float f : frequencies) {
      const float angle = static_cast<float>(position) * f;
      cosines.push_back(static_cast<C>(std::cos(static_cast<double>(angle))));
      sines.push_back(static_cast<C>(std::sin(static_cast<double>(angle))));
    }
  }
}

template void fill_rope_table(const std::vector<float>&, index_t, std::vector<float>&, std::vector<float>&);
template void fill_rope_table(const std::vector<float>&, index_t, std::vector<double>&, std::vector<double>&);

}  // namespace sparsegrad::finetune
