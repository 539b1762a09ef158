#include "training/output/run_log.hpp"

#include <cblas.h>

#include <fmt/format.h>
#include <sparsegrad/version.hpp>

#include "training/output/output_file.hpp"

namespace sparsegrad::finetune {

namespace {

std::string blas_name() {
#ifdef OPENBLAS_VERSION
  return openblas_get_config();
#else
  return "CBLAS";
#endif
}

std::string compiler_name() {
#if defined(__clang__)
  return fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#elif defined(__GNUC__)
  return fmt::format("gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#else
  return "unknown";
#endif
}

double rate(double count, double seconds) {
  return seconds > 0 ? count / seconds : 0;
}

}  // namespace

nlohmann::json versions_json() {
  return {{"sparsegrad", SPARSEGRAD_VERSION}, {"compiler", compiler_name()}, {"blas", blas_name()}};
}

nlohmann::json to_json(const StepRecord& r) {
  return {{"step", r.step},
          {"epoch", r.epoch},
          {"loss", r.loss},
          {"mean_loss", r.mean_loss},
          {"learning_rate", r.learning_rate},
          {"sparse_learning_rate", r.sparse_learning_rate},
          {"examples", r.examples},
          {"tokens", r.tokens},
          {"kept_entries", r.kept},
          {"seconds", r.seconds}};
}

nlohmann::json metrics_json(const std::vector<Metric>& metrics) {
  nlohmann::json json = nlohmann::json::object();
  // A metric without a value (a correlation with something constant) is null.
  for (const Metric& metric : metrics)
    json[metric.name] = metric.defined ? nlohmann::json(metric.value) : nlohmann::json();
  return json;
}

nlohmann::json to_json(const EvaluationRecord& r) {
  return {{"step", r.step},       {"epoch", r.epoch}, {"loss", r.loss}, {"metrics", metrics_json(r.metrics)},
          {"seconds", r.seconds}, {"best", r.best}};
}

nlohmann::json to_json(const TrainReport& report) {
  nlohmann::json json;
  json["steps"] = nlohmann::json::array();
  for (const StepRecord& record : report.steps)
    json["steps"].push_back(to_json(record));
  json["evaluations"] = nlohmann::json::array();
  for (const EvaluationRecord& record : report.evaluations)
    json["evaluations"].push_back(to_json(record));
  json["best"] = nullptr;
  if (report.best) {
    const EvaluationRecord& best = report.evaluations[*report.best];
    const Metric& metric = best.metrics.front();
    json["best"] = {
        {"step", best.step}, {"metric", metric.name}, {"value", metric.value}, {"defined", metric.defined}};
  }
  json["phase1"] = {{"steps", report.phase1.steps},
                    {"seconds", report.phase1.seconds},
                    {"fit_seconds", report.phase1.fit_seconds},
                    {"losses", report.phase1.losses},
                    {"memory", to_json(report.phase1.memory)}};
  const auto steps = static_cast<double>(report.steps_done);
  const double training = report.training_seconds;
  const double phase1 = report.phase1.seconds;
  const double evaluation = report.evaluation_seconds;
  json["time"] = {{"training_seconds", training},
                  {"evaluation_seconds", evaluation},
                  {"phase1_seconds", phase1},
                  {"refresh_seconds", report.refresh_seconds},
                  {"total_seconds", training + evaluation + phase1},
                  {"steps_per_second", rate(steps, training)},
                  {"steps_per_second_with_phase1", rate(steps, training + phase1)},
                  {"steps_per_second_with_evaluation", rate(steps, training + evaluation)},
                  {"steps_per_second_with_all", rate(steps, training + evaluation + phase1)},
                  {"tokens_per_second", rate(static_cast<double>(report.tokens), training)}};
  json["steps_done"] = report.steps_done;
  json["steps_planned"] = report.steps_planned;
  json["tokens"] = report.tokens;
  json["refreshes"] = report.refreshes;
  if (report.skipped_steps > 0) json["skipped_steps"] = report.skipped_steps;
  json["memory"] = to_json(report.memory);
  json["interrupted"] = report.interrupted;
  json["stopped_early"] = report.stopped_early;
  return json;
}

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  // Numbers that JSON cannot hold (NaN, Inf) become null, and bytes of a path that are no UTF-8 its sign for that.
  write_file(path, json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace sparsegrad::finetune
