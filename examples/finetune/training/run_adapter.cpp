#include "training/run_adapter.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoints/low_rank.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_source.hpp"
#include "training/finished_run.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* merged_cure = "take --format merged";

}  // namespace

RunAdapter run_adapter(const fs::path& model, const fs::path& base) {
  const RunLog log = read_run_log(model);
  const json& options = log.options();
  RunAdapter result;
  result.base = base.empty() ? log.model() : base;
  Adapter& adapter = result.adapter;
  const UpdateRank rank_of_run = update_rank(log);
  if (!rank_of_run.rank) throw log.error(rank_of_run.why_none + "; " + merged_cure);
  adapter.rank = *rank_of_run.rank;
  if (options.contains("save_dtype")) {
    throw log.error(
        fmt::format("the run saved its model as {}, which rounds the updates away; expected float, which "
                    "train has without --save-dtype; or {}",
                    options.at("save_dtype").get<std::string>(), merged_cure));
  }
  require_base(result.base);
  const CausalSource trained(model);
  const CausalSource original(result.base);
  require_same_extents(trained, original);
  result.config = original.config();
  const MatrixChoice choice{parse_blocks(options.at("blocks").get<std::string>(), result.config.layers),
                            parse_matrices(options.at("matrices").get<std::string>())};

  const SourceWeights after(trained);
  const SourceWeights before(original);
  const double rounding = log.rounding();
  const auto shapes = decoder_shapes(result.config, {}, 0);
  const auto shape_of = [&](const std::string& name) -> const ParameterShape& {
    return *std::find_if(shapes.begin(), shapes.end(), [&](const auto& p) { return p.name == name; });
  };
  std::vector<std::string> chosen;
  for (const index_t block : choice.blocks)
    for (const MatrixKind kind : choice.kinds)
      chosen.push_back(matrix_name(block, kind));
  for (const ParameterShape& p : shapes) {
    if (std::find(chosen.begin(), chosen.end(), p.name) != chosen.end()) continue;
    if (after.values(p) == before.values(p)) continue;
    throw ModelError(
        fmt::format("{}: \"{}\" is not the base's ({}) and is none of the matrices that the run trained: the "
                    "base is another "
                    "one than the run began from (--base-model), or all parameters trained; an adapter holds "
                    "matrices alone, {}",
                    model.string(), p.name, result.base.string(), merged_cure));
  }
  double change = 0;
  for (const index_t block : choice.blocks) {
    for (const MatrixKind kind : choice.kinds) {
      const ParameterShape& p = shape_of(matrix_name(block, kind));
      const std::vector<float> now = after.values(p);
      const std::vector<float> then = before.values(p);
      std::vector<double> delta(now.size());
      for (std::size_t i = 0; i < now.size(); ++i)
        delta[i] = static_cast<double>(now[i]) - static_cast<double>(then[i]);
      const index_t rank = std::min({adapter.rank, p.rows, p.cols});
      const LowRankFactors factors = low_rank_factors(delta, p.rows, p.cols, rank);
      const double size = frobenius_norm(now);
      if (factors.residual > rounding * size) {
        throw ModelError(fmt::format(
            "{}: \"{}\" less the base's is not of rank {}: what is left beside it has the norm {:.3g}, "
            "expected "
            "at most {:.3g}, rounding in {} steps. Weight decay, a phase 1 that is kept and another base "
            "({}) do that; {}",
            model.string(), p.name, rank, factors.residual, rounding * size,
            log.content.value("steps_done", 0), result.base.string(), merged_cure));
      }
      result.rounding = std::max(result.rounding, size > 0 ? factors.residual / size : 0);
      change += frobenius_norm(factors.a);
      adapter.matrices.push_back({block,
                                  kind,
                                  {p.rows, p.cols},
                                  zero_padded(factors.a, rank, p.cols, adapter.rank, p.cols),
                                  zero_padded(factors.b, p.rows, rank, p.rows, adapter.rank)});
    }
  }
  if (change == 0) {
    throw ModelError(model.string() +
                     ": the model is the base as it was, its best step is the first: there is "
                     "nothing to write");
  }
  return result;
}

}  // namespace sparsegrad::finetune
