// What train prints and leaves behind beside the run's log.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "training/output/event_file.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune {

/// Bytes as MiB.
inline double mib(index_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

std::string metrics_text(const std::vector<Metric>& metrics);
void print_memory(const char* name, const MemoryAccount& account);

/// Hands records that are new since the last call to TensorBoard.
class EventLog {
 public:
  /// `before` is what the run goes on from. Records of its last step are written again: its evaluation may be in the files
  /// of a part that was killed, and is made anew.
  EventLog(const std::filesystem::path& folder, const TrainReport& before)
      : file_(folder, before.steps_done),
        steps_(first_at(before.steps, before.steps_done)),
        evaluations_(first_at(before.evaluations, before.steps_done)) {}

  void update(const TrainReport& report) {
    for (; steps_ < report.steps.size(); ++steps_) {
      const StepRecord& r = report.steps[steps_];
      file_.add(r.step, {{"train/loss", r.mean_loss},
                         {"train/learning_rate", r.learning_rate},
                         {"train/sparse_learning_rate", r.sparse_learning_rate},
                         {"train/tokens", static_cast<double>(r.tokens)},
                         {"train/entries_kept", static_cast<double>(r.kept)}});
    }
    for (; evaluations_ < report.evaluations.size(); ++evaluations_) {
      const EvaluationRecord& r = report.evaluations[evaluations_];
      EventFile::Scalars scalars{{"dev/loss", r.loss}};
      for (const Metric& metric : r.metrics) {
        if (metric.defined) scalars.emplace_back("dev/" + std::string(metric.name), metric.value);
      }
      file_.add(r.step, scalars);
    }
  }

 private:
  /// Index of the first record of `step` or a later one; records stand in the order of their steps.
  template <class Record>
  static std::size_t first_at(const std::vector<Record>& records, index_t step) {
    const auto earlier = [](const Record& record, index_t at) { return record.step < at; };
    return static_cast<std::size_t>(std::lower_bound(records.begin(), records.end(), step, earlier) -
                                    records.begin());
  }

  EventFile file_;
  std::size_t steps_;
  std::size_t evaluations_;
};

/// Whether this log is of a finished run. Throws ValueError when that run had other options.
bool is_finished(const std::filesystem::path& log_path, const TrainOptions& options);

/// What is other in the options of a log's run, by name; empty where they are equal but for its folder, threads and the library that multiplies.
std::string other_options(const nlohmann::json& log, const TrainOptions& options);

}  // namespace sparsegrad::finetune
