// The JSON that a run leaves behind.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "training/trainer.hpp"

namespace sparsegrad::finetune {

/// "format" of the logs of encoders' runs, and of language models'.
inline constexpr const char* run_log_format = "sparsegrad-glue run 1";
inline constexpr const char* llm_run_log_format = "sparsegrad-llm run 1";

/// Versions of what the numbers depend on: the library, the compiler, the BLAS.
nlohmann::json versions_json();

nlohmann::json to_json(const StepRecord& record);
nlohmann::json to_json(const EvaluationRecord& record);
nlohmann::json metrics_json(const std::vector<Metric>& metrics);

/// Everything that `report` holds: steps, evaluations, best, phase1, time, memory, interrupted, stopped_early.
/// The main metric names the best evaluation.
nlohmann::json to_json(const TrainReport& report);

/// Writes `json` to `path`, whole or not at all.
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

}  // namespace sparsegrad::finetune
