#include "replication/presets.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

#include <fmt/format.h>
#include <sparsegrad/core/error.hpp>

namespace sparsegrad::finetune {

std::span<const Preset> all_presets() {
  static const std::vector<Preset> presets{
      {"paper",
       "SparseGrad as published: one HOSVD basis a kind, both sides full, 1.2 % of the entries, fitted once; "
       "learning "
       "rate and batch size, of any run type, as its authors' search chose them for task and model; LoRA's "
       "rank by "
       "the model's size",
       {{"--basis-scope", "kind"},
        {"--width-side", "full"},
        {"--other-side", "full"},
        {"--n-params", "28000"},
        {"--phase1-steps", "30"},
        {"--adam", "torch"},
        {"--refresh-every", "0"}}},
      {"best",
       "one side: the model's width at rank 64, a basis a layer, fitted once, all entries of the core",
       {{"--basis-scope", "layer"},
        {"--width-side", "64"},
        {"--other-side", "identity"},
        {"--share", "1"},
        {"--phase1-steps", "11"},
        {"--adam", "dense_core"},
        {"--refresh-every", "0"}}},
  };
  return presets;
}

std::span<const Preset> language_model_presets() {
  static const std::vector<Preset> presets = [] {
    std::vector<Preset> own(all_presets().begin(), all_presets().end());
    for (Preset& preset : own) {
      if (preset.name != "paper") continue;
      preset.description =
          "SparseGrad as published for LLaMA-2: one HOSVD basis a kind, both sides full, 0.2 % of the "
          "entries, fitted once";
      for (auto& [option, value] : preset.options)
        if (option == "--n-params") std::tie(option, value) = std::pair("--share", "0.002");
    }
    return own;
  }();
  return presets;
}

namespace {

struct PaperTask {
  std::string_view name;
  index_t eval_every;  ///< steps, with batches of 16
  /// ft, lora, sparse of BERT-base, then of RoBERTa-base, then of RoBERTa-large.
  std::array<PaperRate, 9> rates;
};

// The choices of the authors' search, from the configuration of their code (sayankotor/sparse_grads).
constexpr PaperTask paper_tasks[] = {
    {"cola",
     100,
     {{{1.01e-5, 16},
       {2.60e-5, 32},
       {3.15e-5, 32},
       {1.85e-5, 32},
       {3.20e-5, 32},
       {2.61e-5, 32},
       {1.06e-5, 16},
       {5.86e-6, 16},
       {1.27e-5, 32}}}},
    {"mnli",
     10000,
     {{{1.51e-5, 32},
       {1.00e-5, 16},
       {6.07e-6, 32},
       {1.15e-6, 16},
       {1.04e-5, 32},
       {1.00e-5, 32},
       {1.01e-6, 16},
       {1.09e-6, 16},
       {4.34e-6, 32}}}},
    {"mrpc",
     100,
     {{{1.90e-5, 16},
       {3.11e-5, 16},
       {1.22e-5, 32},
       {2.47e-5, 32},
       {7.02e-5, 32},
       {4.63e-5, 32},
       {6.79e-6, 16},
       {1.56e-5, 16},
       {1.96e-5, 16}}}},
    {"qnli",
     100,
     {{{1.91e-5, 16},
       {1.73e-5, 16},
       {1.94e-5, 16},
       {8.38e-6, 16},
       {5.54e-5, 32},
       {1.66e-5, 16},
       {2.35e-6, 32},
       {1.19e-5, 16},
       {5.56e-6, 16}}}},
    {"qqp",
     10000,
     {{{5.11e-6, 16},
       {9.25e-6, 32},
       {1.41e-5, 32},
       {7.20e-6, 32},
       {5.32e-6, 16},
       {1.40e-5, 32},
       {4.48e-6, 32},
       {1.57e-5, 32},
       {2.89e-6, 32}}}},
    {"rte",
     10,
     {{{3.05e-5, 32},
       {3.84e-5, 16},
       {6.81e-5, 16},
       {1.74e-5, 32},
       {1.61e-5, 16},
       {1.81e-5, 16},
       {6.49e-6, 16},
       {4.17e-5, 16},
       {2.10e-5, 32}}}},
    {"sst2",
     1000,
     {{{1.33e-5, 16},
       {4.07e-5, 32},
       {1.47e-5, 32},
       {1.02e-5, 32},
       {1.49e-5, 32},
       {2.30e-5, 32},
       {8.77e-6, 32},
       {5.01e-6, 16},
       {1.46e-6, 32}}}},
    {"stsb",
     100,
     {{{2.70e-5, 16},
       {1.12e-4, 32},
       {1.24e-4, 32},
       {7.71e-5, 32},
       {4.87e-5, 16},
       {1.87e-5, 16},
       {1.11e-5, 32},
       {2.96e-5, 16},
       {2.11e-5, 16}}}},
    {"wnli",
     10,
     {{{9.13e-4, 32},
       {1.57e-5, 32},
       {2.52e-6, 32},
       {2.34e-5, 16},
       {3.11e-5, 16},
       {6.48e-5, 32},
       {1.57e-6, 16},
       {4.14e-5, 32},
       {1.32e-6, 16}}}},
};

const PaperTask& paper_task(std::string_view task) {
  const std::string_view name = task == "mnli-mm" ? "mnli" : task;
  for (const PaperTask& entry : paper_tasks) {
    if (entry.name == name) return entry;
  }
  throw ValueError(fmt::format("the paper has no learning rate for task '{}', expected one of GLUE's", task));
}

}  // namespace

std::span<const std::pair<std::string_view, std::string_view>> protocol_options() {
  static constexpr std::pair<std::string_view, std::string_view> options[] = {{"--epochs", "20"},
                                                                              {"--patience", "5"},
                                                                              {"--padding", "max_length"},
                                                                              {"--max-length", "128"},
                                                                              {"--schedule", "constant"},
                                                                              {"--weight-decay", "0"},
                                                                              {"--basis-scope", "kind"},
                                                                              {"--width-side", "full"},
                                                                              {"--other-side", "full"},
                                                                              {"--phase1-steps", "11"},
                                                                              {"--adam", "torch"},
                                                                              {"--refresh-every", "0"},
                                                                              {"--keep-phase1", "true"},
                                                                              {"--transposed-basis", "true"},
                                                                              {"--rotated-bias", "true"},
                                                                              {"--frozen-layernorm", "true"},
                                                                              {"--signed-selection", "true"}};
  return options;
}

index_t protocol_eval_every(std::string_view task, index_t batch_size) {
  return std::max<index_t>(1, paper_task(task).eval_every * 16 / batch_size);
}

PaperRate paper_rate(const ModelConfig& config, std::string_view task, RunType type) {
  std::size_t column = type == RunType::ft || type == RunType::frozen_mlp ? 0 : type == RunType::lora ? 1 : 2;
  if (config.family == ModelFamily::roberta) column += config.hidden < 1024 ? 3 : 6;
  return paper_task(task).rates[column];
}

index_t paper_lora_rank(const ModelConfig& config) {
  return config.hidden < 1024 ? 7 : 10;
}

const Preset& find_preset(std::string_view name, std::span<const Preset> presets) {
  std::string known;
  for (const Preset& preset : presets) {
    if (preset.name == name) return preset;
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  throw ValueError(fmt::format("--preset is '{}', expected one of: {}, none", name, known));
}

}  // namespace sparsegrad::finetune
