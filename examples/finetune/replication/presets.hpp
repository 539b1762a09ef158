// Named bundles of options.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/encoder/model_config.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

struct Preset {
  std::string_view name;
  std::string_view description;
  std::vector<std::pair<std::string_view, std::string_view>> options;  ///< option of `train` and its value
};

/// An option that the user gives has precedence over the preset's.
std::span<const Preset> all_presets();

/// The same for language models: paper keeps 0.2 % of the entries, as it does of LLaMA's matrices, and sets no rates.
std::span<const Preset> language_model_presets();

/// That of run type sparse when none is given; docs/results.md says why.
inline constexpr std::string_view default_preset = "best";

/// Throws ValueError listing the presets.
const Preset& find_preset(std::string_view name, std::span<const Preset> presets = all_presets());

/// Options of the reference's protocol: its two phases and its length of a run, padding and, for run type sparse, what its
/// code does differently from the method.
std::span<const std::pair<std::string_view, std::string_view>> protocol_options();

/// Steps between two evaluations of a task in the reference's protocol, for batches of this size. Throws ValueError for a
/// task that is not in GLUE.
index_t protocol_eval_every(std::string_view task, index_t batch_size);

struct PaperRate {
  double learning_rate = 0;
  index_t batch_size = 0;
};

/// What the authors' search chose for BERT-base, RoBERTa-base or RoBERTa-large, whichever this model is nearest to: BERT,
/// or a RoBERTa of width below 1024, or a wider one. topk and meprop have sparse's values, frozen-mlp has ft's. Throws
/// ValueError for a task that is not in GLUE.
PaperRate paper_rate(const ModelConfig& config, std::string_view task, RunType type);

/// The rank of the paper's LoRA adapters: 7 for models of the base size, 10 from a width of 1024 on.
index_t paper_lora_rank(const ModelConfig& config);

}  // namespace sparsegrad::finetune
