// The report of a run in its state file.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/state_file.hpp>

#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune::detail {

using nlohmann::json;

namespace {

json account_json(const MemoryAccount& account) {
  const MemoryParts& p = account.parts;
  return {p.program, p.weights,    p.gradients,          p.optimizer,        p.activations,
          p.basis,   p.collection, account.process_peak, account.peak_is_own};
}

MemoryAccount read_account(const json& j) {
  MemoryAccount account;
  MemoryParts& p = account.parts;
  int at = 0;
  for (index_t* bytes : {&p.program, &p.weights, &p.gradients, &p.optimizer, &p.activations, &p.basis,
                         &p.collection, &account.process_peak})
    *bytes = state_integer(j.at(at++));
  account.peak_is_own = j.at(8);
  return account;
}

/// JSON has null in place of NaN and Inf.
double number_or_nan(const json& j) {
  return j.is_null() ? std::numeric_limits<double>::quiet_NaN() : j.get<double>();
}

/// nlohmann's loops take null for an empty list, and an object for its values.
const json& list(const json& j) {
  if (!j.is_array()) throw IoError("the metadata have " + j.dump() + ", expected a list");
  return j;
}

}  // namespace

json records_json(const TrainReport& report) {
  json steps = json::array();
  for (const StepRecord& r : report.steps) {
    steps.push_back({r.step, r.epoch, r.loss, r.mean_loss, r.learning_rate, r.sparse_learning_rate,
                     r.examples, r.tokens, r.seconds, r.kept});
  }
  json evaluations = json::array();
  for (const EvaluationRecord& r : report.evaluations) {
    json metrics = json::array();
    for (const Metric& m : r.metrics)
      metrics.push_back({m.name, m.value, m.defined});
    evaluations.push_back({r.step, r.epoch, r.loss, metrics, r.seconds, r.best});
  }
  const PhaseOneRecord& p = report.phase1;
  return {{"steps", steps},
          {"evaluations", evaluations},
          {"best", report.best ? json(*report.best) : json()},
          {"phase1", {p.steps, p.seconds, p.fit_seconds, p.losses, account_json(p.memory)}},
          {"memory", account_json(report.memory)},
          {"steps_done", report.steps_done},
          {"tokens", report.tokens},
          {"refreshes", report.refreshes},
          {"skipped_steps", report.skipped_steps},
          {"refresh_seconds", report.refresh_seconds},
          {"training_seconds", report.training_seconds},
          {"evaluation_seconds", report.evaluation_seconds}};
}

json parse_state(const std::string& text) {
  constexpr int most_nested = 256;
  return json::parse(text, [](int depth, json::parse_event_t, const json&) {
    if (depth > most_nested) throw IoError("the metadata are malformed: they nest more than 256 deep");
    return true;
  });
}

void read_records(const json& j, TrainReport& report) {
  report.steps.clear();
  for (const json& r : list(j.at("steps"))) {
    StepRecord record;
    record.step = state_integer(r.at(0));
    record.epoch = r.at(1);
    record.loss = number_or_nan(r.at(2));
    record.mean_loss = number_or_nan(r.at(3));
    record.learning_rate = r.at(4);
    record.sparse_learning_rate = r.at(5);
    record.examples = state_integer(r.at(6));
    record.tokens = state_integer(r.at(7));
    record.seconds = r.at(8);
    record.kept = state_integer(r.at(9));
    report.steps.push_back(record);
  }
  report.evaluations.clear();
  for (const json& r : list(j.at("evaluations"))) {
    EvaluationRecord record;
    record.step = state_integer(r.at(0));
    record.epoch = r.at(1);
    record.loss = number_or_nan(r.at(2));
    for (const json& m : list(r.at(3)))
      record.metrics.push_back({m.at(0), number_or_nan(m.at(1)), m.at(2)});
    record.seconds = r.at(4);
    record.best = r.at(5);
    report.evaluations.push_back(std::move(record));
  }
  report.best.reset();
  if (!j.at("best").is_null()) {
    const auto count = static_cast<index_t>(report.evaluations.size());
    report.best = static_cast<std::size_t>(state_integer(j.at("best"), 0, count - 1));
  }
  const json& p = j.at("phase1");
  report.phase1.steps = state_integer(p.at(0));
  report.phase1.seconds = p.at(1);
  report.phase1.fit_seconds = p.at(2);
  report.phase1.losses.clear();
  for (const json& loss : list(p.at(3)))
    report.phase1.losses.push_back(number_or_nan(loss));
  report.phase1.memory = read_account(p.at(4));
  report.memory = read_account(j.at("memory"));
  report.steps_done = state_integer(j.at("steps_done"));
  report.tokens = state_integer(j.at("tokens"));
  report.refreshes = state_integer(j.at("refreshes"));
  report.skipped_steps = state_integer(j.at("skipped_steps"));
  report.refresh_seconds = j.at("refresh_seconds");
  report.training_seconds = j.at("training_seconds");
  report.evaluation_seconds = j.at("evaluation_seconds");
}

}  // namespace sparsegrad::finetune::detail
