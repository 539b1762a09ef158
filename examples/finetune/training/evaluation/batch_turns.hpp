// Batches of an evaluation that several processes share.
#pragma once

#include <span>

#include "training/evaluation/evaluation.hpp"

namespace sparsegrad::finetune {

/// Deals the batches of an evaluation to the processes in turn.
class BatchTurns {
 public:
  explicit BatchTurns(const EvaluateOptions& options) : options_(options) {}

  bool alone() const { return options_.processes == nullptr; }
  /// Whether the next batch is this process's.
  bool mine() const { return alone() || batch_ % options_.processes->size() == options_.processes->rank(); }
  /// After each batch, whoever made it, with the number of examples up to there: tells the progress, and whether to end,
  /// which all processes answer alike.
  bool cancelled(index_t done, index_t total) {
    ++batch_;
    if (!alone() && batch_ % options_.processes->size() != 0 && done != total) return false;
    if (options_.progress) options_.progress(done, total);
    double cancelled = options_.cancelled && options_.cancelled() ? 1 : 0;
    if (!alone())
      options_.processes->sum(std::span(&cancelled, 1), SumOrder::any, "whether to end an evaluation");
    return cancelled > 0;
  }
  /// Makes numbers whole of which each process has its own batches', and 0 elsewhere.
  template <class N>
  void join(std::span<N> values) const {
    if (!alone()) options_.processes->sum(values, SumOrder::any, "the answers of an evaluation");
  }

 private:
  const EvaluateOptions& options_;
  index_t batch_ = 0;
};

}  // namespace sparsegrad::finetune
