#include "programs/option_effects.hpp"

#include <algorithm>
#include <utility>
#include <variant>

#include <fmt/format.h>
#include <sparsegrad/io/side_recipe_text.hpp>

namespace sparsegrad::finetune {

namespace {

/// Options of the machine, which all commands have.
OptionEffect machine_effect(const TrainOptions& o) {
  return {{"--threads", "--deterministic"}, o.device == Device::cpu, "--device cuda", "--device cpu"};
}

/// The rank that a side is given; 0 where it is given none.
index_t rank_of(const SideRecipe& recipe) {
  if (const auto* random = std::get_if<SideRecipe::Random>(&recipe.choice())) return random->rank;
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&recipe.choice());
  if (hosvd == nullptr) return 0;
  const auto* rank = std::get_if<Truncation::Rank>(&hosvd->truncation.choice());
  return rank == nullptr ? 0 : rank->rank;
}

}  // namespace

std::vector<OptionEffect> option_effects(const TrainOptions& o) {
  const SparseOptions& s = o.sparse;
  // The control of sparsegrad-llm has another name on its command line.
  const bool frozen = o.causal && o.run_type == RunType::frozen_mlp;
  const std::string type = fmt::format("--run-type {}", frozen ? "frozen" : to_string(o.run_type));
  const bool sparse = o.run_type == RunType::sparse;
  std::vector<OptionEffect> rows{
      {{"--lora-rank", "--lora-scale", "--lora-init"}, o.run_type == RunType::lora, type, "--run-type lora"},
      {{"--meprop-share"}, o.run_type == RunType::meprop, type, "--run-type meprop"},
      {{"--sparse-learning-rate"},
       o.run_type != RunType::lora && o.run_type != RunType::frozen_mlp,
       type,
       o.causal ? "a run type that trains the chosen matrices" : "a run type that trains the MLP matrices"},
      {{"--n-params", "--share", "--adam", "--plan", "--state-capacity", "--state-overflow",
        "--own-gradient-memory"},
       o.steps_sparsely(),
       type,
       "--run-type sparse or topk"},
      {{"--basis-scope", "--width-side", "--other-side", "--out-side", "--in-side", "--phase1-steps",
        "--phase1-fixed-matrices", "--normalize", "--keep-phase1", "--refresh-every", "--refresh-window",
        "--moments", "--transposed-basis", "--rotated-bias", "--frozen-layernorm", "--signed-selection"},
       sparse,
       type,
       "--run-type sparse"},
      // Of an encoder paper has learning rates and batch sizes of every run type.
      {{"--preset"},
       o.steps_sparsely() || (o.preset == "paper" && !o.causal),
       type,
       "--run-type sparse or topk for " + o.preset},
      {{"--save-dtype"}, o.save, "--no-save", "models that are saved"},
      {{"--process-timeout", "--wire"}, o.processes > 1, "one process", "several (mpirun)"},
      {{"--profile"}, o.device == Device::cpu, "--device cuda", "--device cpu"},
      machine_effect(o)};
  if (o.steps_sparsely()) {
    rows.push_back({{"--state-overflow"}, s.state_capacity > 0, "--state-capacity 0", "a capacity", true});
  }
  if (!sparse) return rows;
  rows.push_back({{"--phase1-steps", "--phase1-fixed-matrices", "--normalize", "--keep-phase1"},
                  s.needs_gradients(),
                  "sides that are fitted to no gradients",
                  "a side of full, a rank or an energy share"});
  const auto refused = [&](std::string_view option, bool effective, const char* found, const char* needed) {
    rows.push_back({{option}, effective, found, needed, true});
  };
  refused("--refresh-window", s.refresh_every > 0 || s.refresh_window == 1, "--refresh-every 0",
          "--refresh-every above 0");
  refused("--moments", s.refresh_every > 0 || s.moments == MomentsPolicy::reset, "--refresh-every 0",
          "--refresh-every above 0");
  for (const char* side : {"--width-side", "--other-side"}) {
    refused(side, s.sides.out.empty() || s.sides.in.empty(),
            "--out-side and --in-side, which stand in its place", "one of the two left out");
  }
  return rows;
}

std::vector<OptionEffect> option_effects(const EvaluateCommand& command) {
  const bool train = command.split == "train";
  return {{{"--train-limit"}, train, "--split " + command.split, "--split train"},
          {{"--dev-limit"}, !train, "--split train", "--split dev or test"},
          machine_effect(command.common)};
}

std::vector<OptionEffect> option_effects(const InspectCommand&) {
  return {{{"--phase1-fixed-matrices"}, false, "inspect", "train"}};
}

std::vector<std::string> check_effects(const std::set<std::string>& given,
                                       const std::vector<OptionEffect>& effects) {
  std::vector<std::string> warnings;
  for (const OptionEffect& row : effects) {
    if (row.effective) continue;
    for (const std::string_view option : row.options) {
      if (!given.contains(std::string(option))) continue;
      const std::string text =
          fmt::format("{} has no effect with {}: it needs {}", option, row.found, row.needed);
      if (row.refused) throw ValueError(text + ". Leave it out");
      warnings.push_back(text);
    }
  }
  return warnings;
}

std::string check_threads(const TrainOptions& options, int available) {
  if (options.device != Device::cpu || options.threads <= available) return "";
  return fmt::format(
      "--threads is {}, which wait for one another: by affinity and quotas this process has {} processor{}, "
      "which --threads 0 takes",
      options.threads, available, available == 1 ? "" : "s");
}

RankLimits rank_limits(const ModelConfig& model) {
  return {model.hidden, model.intermediate, std::min(model.hidden, model.intermediate)};
}

void check_ranks(const std::set<std::string>& given, const TrainOptions& options, const RankLimits& most) {
  const auto check = [&](const char* option, const auto& value, index_t rank, index_t extent,
                         const char* what) {
    if (!given.contains(option) || rank <= extent) return;
    throw ValueError(fmt::format("{} is {}, expected a rank of at most {}, {}", option, value, extent, what));
  };
  if (options.run_type == RunType::lora)
    check("--lora-rank", options.lora.rank, options.lora.rank, most.lora, "the lesser side of the matrices");
  if (options.run_type != RunType::sparse) return;
  const auto check_side = [&](const char* option, const std::string& text, index_t extent, const char* what) {
    if (!text.empty()) check(option, text, rank_of(parse_side_recipe(text)), extent, what);
  };
  const SideOptions& sides = options.sparse.sides;
  const index_t larger = std::max(most.width, most.inner);
  check_side("--width-side", sides.width, most.width, "the model's width");
  check_side("--other-side", sides.other, most.inner, "the matrices' inner side");
  check_side("--out-side", sides.out, larger, "the largest side of its matrices");
  check_side("--in-side", sides.in, larger, "the largest side of its matrices");
}

}  // namespace sparsegrad::finetune
