#include "training/run_delta.hpp"

#include <algorithm>
#include <optional>
#include <span>

#include "checkpoints/low_rank.hpp"
#include "training/finished_run.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

/// Factors of the difference, where it is of this rank but for a share `rounding` of the norm.
std::optional<ParameterDelta> factors_of(const ParameterShape& p, std::span<const float> now,
                                         std::span<const float> then, index_t rank, double rounding) {
  std::vector<double> difference(now.size());
  for (std::size_t i = 0; i < now.size(); ++i)
    difference[i] = static_cast<double>(now[i]) - static_cast<double>(then[i]);
  LowRankFactors factors = low_rank_factors(difference, p.rows, p.cols, rank);
  if (factors.residual > rounding * frobenius_norm(now)) return std::nullopt;
  ParameterDelta delta;
  delta.rank = rank;
  delta.a = std::move(factors.a);
  delta.b = std::move(factors.b);
  return delta;
}

}  // namespace

RunDelta run_delta(const fs::path& model, const fs::path& base) {
  std::optional<RunLog> log;
  if (base.empty() || has_run_log(model)) log = read_run_log(model);
  RunDelta result;
  result.base = base.empty() ? log->model() : base;
  require_base(result.base);
  const CausalSource trained(model);
  const CausalSource original(result.base);
  require_same_extents(trained, original);
  result.shapes = decoder_shapes(original.config(), {}, 0);
  const std::optional<index_t> rank_of_run = log ? update_rank(*log).rank : std::nullopt;

  const SourceWeights after(trained);
  const SourceWeights before(original);
  for (const ParameterShape& p : result.shapes) {
    const std::vector<float> now = after.values(p);
    const std::vector<float> then = before.values(p);
    result.delta.base[p.name] = weights_hash(then);
    const auto count = static_cast<index_t>(now.size());
    result.model_bytes += 4 * count;
    ParameterDelta entries;
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (now[i] == then[i]) continue;
      entries.positions.push_back(static_cast<std::int64_t>(i));
      entries.values.push_back(now[i]);
    }
    if (entries.positions.empty()) continue;
    const auto entry_bytes = static_cast<index_t>(8 * entries.positions.size());
    const index_t rank = p.is_vector() ? 0 : std::min({rank_of_run.value_or(0), p.rows, p.cols});
    std::optional<ParameterDelta> factors;
    if (rank > 0 && 4 * rank * (p.rows + p.cols) < std::min(entry_bytes, 4 * count))
      factors = factors_of(p, now, then, rank, log->rounding());
    if (factors) {
      result.delta.parameters[p.name] = std::move(*factors);
      ++result.by_factors;
    } else if (entry_bytes < 4 * count) {
      result.delta.parameters[p.name] = std::move(entries);
      ++result.by_entries;
    } else {
      result.delta.parameters[p.name].values = now;
      ++result.whole;
    }
  }
  if (result.delta.parameters.empty()) {
    throw ModelError(model.string() + ": the model is the base as it was (" + result.base.string() +
                     "), there is nothing to write");
  }
  return result;
}

}  // namespace sparsegrad::finetune
