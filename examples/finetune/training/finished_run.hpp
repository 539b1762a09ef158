// A run's model beside its log, and the model that it began from.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "models/model_error.hpp"
#include "training/causal_source.hpp"

namespace sparsegrad::finetune {

/// A finished run's log.
struct RunLog {
  std::string path;
  nlohmann::json content;

  const nlohmann::json& options() const { return content.at("options"); }
  /// The model that the run began from.
  std::filesystem::path model() const { return options().at("model").get<std::string>(); }
  /// The share of a matrix's norm that rounding in the run's steps may be, 4 sqrt(steps + 1) 2^-24.
  double rounding() const;
  /// "<path>: <what>".
  ModelError error(const std::string& what) const { return ModelError(path + ": " + what); }
};

/// Whether there is a log OUT/run.json beside OUT/model.
bool has_run_log(const std::filesystem::path& model);
/// The model that this run began from by the log beside it, finished or not; empty where none says it.
std::filesystem::path base_in_log(const std::filesystem::path& model);
/// The log of the run whose saved model this is, OUT/run.json beside OUT/model. Throws ModelError: none, another
/// program's, or of a run that is not finished.
RunLog read_run_log(const std::filesystem::path& model);

/// The rank that a run gave its updates, or why it has none.
struct UpdateRank {
  std::optional<index_t> rank;
  std::string why_none;
};
UpdateRank update_rank(const RunLog& log);

/// Throws ModelError where there is no such model.
void require_base(const std::filesystem::path& base);
/// Throws ModelError, with both, where the two have other extents.
void require_same_extents(const CausalSource& trained, const CausalSource& base);

/// The root of the sum of squares.
double frobenius_norm(std::span<const float> values);

}  // namespace sparsegrad::finetune
