// Rotary position embeddings.
#pragma once

#include <string_view>
#include <vector>

#include <sparsegrad/core/view.hpp>

namespace sparsegrad::finetune {

/// How the positions of longer contexts are stretched.
enum class RopeScaling {
  none,
  linear,  ///< all frequencies divided by `factor`
  llama3,  ///< low frequencies alone, with a smooth passage
};
/// "default", "linear" or "llama3", as in config.json.
std::string_view to_string(RopeScaling scaling);

/// What the angles of a model's positions come from.
struct RopeConfig {
  double base = 10000;  ///< "rope_theta"
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;  ///< of linear and llama3
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  index_t original_max_positions = 8192;  ///< of llama3
};

/// The frequency of each pair of columns, [head_size / 2]: base^(-2 j / head_size), scaled; as transformers has them,
/// rounded to float.
std::vector<float> rope_frequencies(const RopeConfig& config, index_t head_size);

/// Cosines and sines of the angles position * frequency, [positions, head_size / 2]. With them a head's columns j and
/// j + head_size / 2 are rotated:
///     y_j = x_j cos - x_(j + half) sin,   y_(j + half) = x_(j + half) cos + x_j sin
template <class C>
struct RopeTable {
  MatrixView<const C> cosines, sines;
};

/// The tables of positions 0 to rows - 1, row by row.
template <class C>
void fill_rope_table(const std::vector<float>& frequencies, index_t rows, std::vector<C>& cosines,
                     std::vector<C>& sines);

}  // namespace sparsegrad::finetune
