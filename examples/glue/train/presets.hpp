// Named bundles of options.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sparsegrad::glue {

struct Preset {
  std::string_view name;
  std::string_view description;
  std::vector<std::pair<std::string_view, std::string_view>> options;  ///< option of `train` and its value
};

/// An option that the user gives has precedence over the preset's.
std::span<const Preset> all_presets();

/// Throws ValueError listing the presets.
const Preset& find_preset(std::string_view name);

}  // namespace sparsegrad::glue
