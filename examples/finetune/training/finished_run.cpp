#include "training/finished_run.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

#include <fmt/format.h>
#include <sparsegrad/io/side_recipe_text.hpp>

#include "checkpoints/config_file.hpp"
#include "training/output/output_folder.hpp"
#include "training/output/run_log.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The rank of a side, nothing where it is full or left to the gradients.
std::optional<index_t> fixed_rank(const SideRecipe& side) {
  if (const auto* random = std::get_if<SideRecipe::Random>(&side.choice()))
    return random->rank > 0 ? std::optional(random->rank) : std::nullopt;
  if (const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&side.choice()))
    if (const auto* rank = std::get_if<Truncation::Rank>(&hosvd->truncation.choice())) return rank->rank;
  return std::nullopt;
}

fs::path log_beside(const fs::path& model) {
  fs::path folder = fs::absolute(model).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  return OutputFolder::log_in(folder.parent_path());
}

}  // namespace

double RunLog::rounding() const {
  return 4 * std::sqrt(content.value("steps_done", 0.0) + 1) * std::exp2(-24.0);  // rms, of steps in float
}

bool has_run_log(const fs::path& model) {
  return fs::exists(log_beside(model));
}

fs::path base_in_log(const fs::path& model) {
  if (!has_run_log(model)) return {};
  try {
    return read_json(log_beside(model)).at("options").at("model").get<std::string>();
  } catch (const std::exception&) {
    return {};  // another program's file
  }
}

RunLog read_run_log(const fs::path& model) {
  const fs::path file = log_beside(model);
  if (!fs::exists(file)) {
    throw ModelError(file.string() +
                     ": there is no such file; adapters and deltas are made of a run's model, --model "
                     "OUT/model, beside the "
                     "run's log OUT/run.json");
  }
  RunLog log{file.string(), read_json(file)};
  if (!log.content.is_object() || log.content.value("format", json()) != llm_run_log_format) {
    throw log.error(
        fmt::format("expected the log of a run of sparsegrad-llm, \"format\": \"{}\"", llm_run_log_format));
  }
  if (log.content.value("finished", json()) != true) {
    throw log.error(fmt::format("the run is not finished (step {} of {}); train with --resume ends it",
                                log.content.value("steps_done", 0), log.content.value("steps_planned", 0)));
  }
  return log;
}

UpdateRank update_rank(const RunLog& log) {
  const json& options = log.options();
  const std::string type = options.at("run_type");
  if (type == "lora") return {options.at("lora").at("rank").get<index_t>(), ""};
  if (type != "sparse") {
    return {
        std::nullopt,
        fmt::format("the run is of type {}, whose updates have no low rank; expected lora, or sparse with a "
                    "side of a fixed rank",
                    type)};
  }
  const json& sparse = options.at("sparse");
  index_t rank = 0;
  for (const char* kind : {"up", "down"}) {
    const std::string out = sparse.at(kind).at("out");
    const std::string in = sparse.at(kind).at("in");
    const std::optional<index_t> of_out = fixed_rank(parse_side_recipe(out));
    const std::optional<index_t> of_in = fixed_rank(parse_side_recipe(in));
    if (!of_out && !of_in) {
      return {
          std::nullopt,
          fmt::format("the bases of the run have the sides \"{}\" (out) and \"{}\" (in), expected one of a "
                      "fixed rank: the updates are of full rank",
                      out, in)};
    }
    constexpr index_t none = std::numeric_limits<index_t>::max();
    rank = std::max(rank, std::min(of_out.value_or(none), of_in.value_or(none)));
  }
  // Each basis leaves columns of its own.
  return {rank * (1 + log.content.value("refreshes", index_t{0})), ""};
}

void require_base(const fs::path& base) {
  if (fs::exists(base)) return;
  throw ModelError(base.string() +
                   ": there is no such model, which the run began from; say with --base-model where it is");
}

void require_same_extents(const CausalSource& trained, const CausalSource& base) {
  const auto extents = [](const DecoderConfig& c) {
    return fmt::format(
        "{} blocks of width {} and {}, {} heads and {} of keys and values of {}, {} tokens, {} head",
        c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_size, c.vocab_size,
        c.tied_embeddings ? "tied" : "own");
  };
  const std::string of_base = extents(base.config());
  const std::string of_trained = extents(trained.config());
  if (of_base == of_trained) return;
  throw ModelError(fmt::format(
      "{}: the model has {}, but the run's model {}: expected as --base-model the one that the run "
      "began from",
      base.path().string(), of_base, of_trained));
}

double frobenius_norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values)
    sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum);
}

}  // namespace sparsegrad::finetune
