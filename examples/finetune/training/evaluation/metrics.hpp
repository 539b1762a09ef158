#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/glue.hpp"

namespace sparsegrad::finetune {

/// A figure of merit. Where it is not defined (a correlation with something constant, F1 without positives)
/// `value` is 0 and `defined` false.
struct Metric {
  std::string name;
  double value = 0.0;
  bool defined = true;
};

/// Whether `a` is a better result than `b`: the larger one, and any value that is defined before one that is not.
bool is_better(const Metric& a, const Metric& b);

// Each of these throws std::invalid_argument when the two spans differ in length or are empty, or hold NaN or
// Inf.

/// Matthews' correlation of two classes, numbered 0 and 1 (any other number throws).
Metric matthews_correlation(std::span<const float> predictions, std::span<const float> labels);
/// Its generalization to classes numbered from 0 to `classes` - 1 (R_K of Gorodkin, "Comparing two K-category assignments
/// by a K-category correlation coefficient", 2004): with c the number of equal entries of s, p_k and t_k how often k is
/// predicted and true, (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)).
Metric matthews_correlation(std::span<const float> predictions, std::span<const float> labels, int classes);
/// Share of equal entries.
Metric accuracy(std::span<const float> predictions, std::span<const float> labels);
/// F1 of class 1.
Metric f1_score(std::span<const float> predictions, std::span<const float> labels);
Metric pearson_correlation(std::span<const float> predictions, std::span<const float> labels);
/// Pearson's correlation of the ranks, equal values having the mean of their ranks.
Metric spearman_correlation(std::span<const float> predictions, std::span<const float> labels);

Metric compute_metric(MetricKind kind, std::span<const float> predictions, std::span<const float> labels);

/// The task's metrics, the main one first. `predictions` are class numbers, or scores in a regression task.
std::vector<Metric> evaluate(const Task& task, std::span<const float> predictions,
                             std::span<const float> labels);

}  // namespace sparsegrad::finetune
