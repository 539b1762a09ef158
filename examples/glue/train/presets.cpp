#include "train/presets.hpp"

#include <string>

#include <fmt/format.h>
#include <sparsegrad/core/error.hpp>

namespace sparsegrad::glue {

std::span<const Preset> all_presets() {
  static const std::vector<Preset> presets{
      {"paper",
       "SparseGrad as published: one HOSVD basis a kind, both sides full, 1.2 % of the entries, fitted once",
       {{"--basis-scope", "kind"},
        {"--width-side", "full"},
        {"--other-side", "full"},
        {"--n-params", "28000"},
        {"--phase1-steps", "30"},
        {"--adam", "torch"},
        {"--refresh-every", "0"}}},
      {"best",
       "one side: the model's width at rank 64, a basis a layer, refreshed every 100 steps, all entries of "
       "the core",
       {{"--basis-scope", "layer"},
        {"--width-side", "64"},
        {"--other-side", "identity"},
        {"--share", "1"},
        {"--phase1-steps", "11"},
        {"--adam", "dense_core"},
        {"--refresh-every", "100"}}},
  };
  return presets;
}

const Preset& find_preset(std::string_view name) {
  std::string known;
  for (const Preset& preset : all_presets()) {
    if (preset.name == name) return preset;
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  throw ValueError(fmt::format("--preset is '{}', expected one of: {}", name, known));
}

}  // namespace sparsegrad::glue
