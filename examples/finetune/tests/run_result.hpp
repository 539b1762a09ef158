// What a run leaves behind and must not depend on how often it was ended.
#pragma once

#include <algorithm>
#include <set>

#include "program.hpp"
#include "support/event_files.hpp"

namespace sparsegrad::finetune::test {

/// Weights, losses and evaluations, and the names of the files beside them.
struct Result {
  std::string model;
  std::vector<double> losses;
  nlohmann::json evaluations;
  nlohmann::json best;
  std::set<std::string> files;
};

inline Result result_of(const std::filesystem::path& output) {
  Result result;
  result.model = content(output / "model" / "model.safetensors");
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["finished"] == true);
  std::vector<std::int64_t> steps;
  for (const nlohmann::json& step : log["steps"]) {
    result.losses.push_back(step["loss"]);
    steps.push_back(step["step"]);
  }
  std::vector<std::int64_t> evaluated;
  for (nlohmann::json evaluation : log["evaluations"]) {
    evaluated.push_back(evaluation["step"]);
    evaluation.erase("seconds");
    result.evaluations.push_back(evaluation);
  }
  result.best = log["best"];
  // TensorBoard shows the same steps, each once.
  auto shown = shown_steps(output / "tensorboard");
  CHECK(shown["train/loss"] == steps);
  CHECK(shown["dev/loss"] == evaluated);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(output)) {
    if (!entry.is_regular_file() || entry.path().parent_path().filename() == "tensorboard") continue;
    result.files.insert(std::filesystem::relative(entry.path(), output).string());
  }
  return result;
}

inline void check_same(const Result& found, const Result& wanted) {
  CHECK((found.model == wanted.model));
  CHECK(found.losses == wanted.losses);
  CHECK(found.evaluations == wanted.evaluations);
  CHECK(found.best == wanted.best);
  CHECK(found.files == wanted.files);
}

}  // namespace sparsegrad::finetune::test
