// What a run has found out: its steps, evaluations, times and memory.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "training/evaluation/metrics.hpp"
#include "training/memory/memory_account.hpp"

namespace sparsegrad::finetune {

struct StepRecord {
  index_t step = 0;  ///< from 1
  double epoch = 0;
  double loss = 0;       ///< of this step's examples, before its update
  double mean_loss = 0;  ///< over the steps since the record before
  double learning_rate = 0;
  double sparse_learning_rate = 0;
  index_t examples = 0;
  index_t tokens = 0;  ///< rows of all micro-batches
  double seconds = 0;  ///< training time up to here
  index_t kept = 0;    ///< entries of all sparse gradients
};

struct EvaluationRecord {
  index_t step = 0;
  double epoch = 0;
  double loss = 0;
  std::vector<Metric> metrics;
  double seconds = 0;
  bool best = false;
};

struct PhaseOneRecord {
  index_t steps = 0;
  double seconds = 0;  ///< with the fit of the bases
  double fit_seconds = 0;
  std::vector<double> losses;
  MemoryAccount memory;
};

/// Everything that a run has found out so far.
struct TrainReport {
  std::vector<StepRecord> steps;
  std::vector<EvaluationRecord> evaluations;
  std::optional<std::size_t> best;  ///< in evaluations
  PhaseOneRecord phase1;
  MemoryAccount memory;  ///< of the steps; neither phase 1 nor evaluations
  index_t steps_done = 0;
  index_t steps_planned = 0;
  index_t tokens = 0;
  index_t refreshes = 0;
  index_t skipped_steps = 0;      ///< left out because a gradient overflowed under the loss scale
  double refresh_seconds = 0;     ///< part of the training time
  double training_seconds = 0;    ///< of the steps alone
  double evaluation_seconds = 0;  ///< with keeping the best model
  bool interrupted = false;
  bool stopped_early = false;
};

}  // namespace sparsegrad::finetune
