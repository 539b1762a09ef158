#include "training/evaluation/metrics.hpp"

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <stdexcept>

namespace sparsegrad::finetune {
namespace {

void check(std::span<const float> predictions, std::span<const float> labels) {
  if (predictions.size() != labels.size() || labels.empty()) {
    throw std::invalid_argument("expected as many predictions as labels, and at least one, found " +
                                std::to_string(predictions.size()) + " predictions and " +
                                std::to_string(labels.size()) + " labels");
  }
  for (const auto& [values, what] : {std::pair(predictions, "prediction"), std::pair(labels, "label")}) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!sparsegrad::is_finite(values[i])) {
        throw std::invalid_argument("expected finite numbers, found " + std::to_string(values[i]) + " as " +
                                    what + " " + std::to_string(i));
      }
    }
  }
}

struct Confusion {
  double true_positive = 0, true_negative = 0, false_positive = 0, false_negative = 0;
};

Confusion count(std::span<const float> predictions, std::span<const float> labels) {
  check(predictions, labels);
  Confusion out;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const auto is_class = [](float value) { return value == 0.0F || value == 1.0F; };
    if (!is_class(predictions[i]) || !is_class(labels[i])) {
      throw std::invalid_argument("expected classes 0 and 1, found the prediction " +
                                  std::to_string(predictions[i]) + " and the label " +
                                  std::to_string(labels[i]) + " at example " + std::to_string(i));
    }
    if (predictions[i] == 1.0F) {
      ++(labels[i] == 1.0F ? out.true_positive : out.false_positive);
    } else {
      ++(labels[i] == 1.0F ? out.false_negative : out.true_negative);
    }
  }
  return out;
}

Metric make_metric(MetricKind kind, double numerator, double denominator) {
  const bool defined = denominator > 0.0;
  return {std::string(to_string(kind)), defined ? numerator / denominator : 0.0, defined};
}

Metric correlation(MetricKind kind, std::span<const double> x, std::span<const double> y) {
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
  }
  // Equal values may leave a rounding error where their sum of squares should be 0.
  const auto constant = [](std::span<const double> values) {
    return std::all_of(values.begin(), values.end(), [&](double value) { return value == values.front(); });
  };
  if (constant(x) || constant(y)) return make_metric(kind, 0.0, 0.0);
  Metric out = make_metric(kind, xy, std::sqrt(xx) * std::sqrt(yy));
  out.value = std::clamp(out.value, -1.0, 1.0);
  return out;
}

/// Ranks from 1; equal values get the mean of theirs.
std::vector<double> ranks(std::span<const float> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return values[i] < values[j]; });
  std::vector<double> out(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last + 1 < order.size() && values[order[last + 1]] == values[order[first]])
      ++last;
    const double mean = 1.0 + static_cast<double>(first + last) / 2.0;
    for (std::size_t i = first; i <= last; ++i)
      out[order[i]] = mean;
    first = last + 1;
  }
  return out;
}

}  // namespace

bool is_better(const Metric& a, const Metric& b) {
  if (a.defined != b.defined) return a.defined;
  return a.defined && a.value > b.value;
}

Metric matthews_correlation(std::span<const float> predictions, std::span<const float> labels) {
  const auto [tp, tn, fp, fn] = count(predictions, labels);
  const double denominator =
      std::sqrt(tp + fp) * std::sqrt(tp + fn) * std::sqrt(tn + fp) * std::sqrt(tn + fn);
  return make_metric(MetricKind::matthews, tp * tn - fp * fn, denominator);
}

Metric matthews_correlation(std::span<const float> predictions, std::span<const float> labels, int classes) {
  check(predictions, labels);
  std::vector<double> predicted(static_cast<std::size_t>(classes));
  std::vector<double> expected(static_cast<std::size_t>(classes));
  const auto count_of = [&](std::vector<double>& counts, float value) -> double& {
    if (value < 0.0F || value >= static_cast<float>(classes) || value != std::floor(value)) {
      throw std::invalid_argument("expected classes from 0 to " + std::to_string(classes - 1) + ", found " +
                                  std::to_string(value));
    }
    return counts[static_cast<std::size_t>(value)];
  };
  double equal = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    ++count_of(predicted, predictions[i]);
    ++count_of(expected, labels[i]);
    equal += predictions[i] == labels[i] ? 1.0 : 0.0;
  }
  const auto product = [](const std::vector<double>& x, const std::vector<double>& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  const auto size = static_cast<double>(labels.size());
  const double denominator = std::sqrt(size * size - product(predicted, predicted)) *
                             std::sqrt(size * size - product(expected, expected));
  return make_metric(MetricKind::matthews, equal * size - product(predicted, expected), denominator);
}

Metric accuracy(std::span<const float> predictions, std::span<const float> labels) {
  check(predictions, labels);
  double equal = 0;
  for (std::size_t i = 0; i < labels.size(); ++i)
    equal += predictions[i] == labels[i] ? 1.0 : 0.0;
  return make_metric(MetricKind::accuracy, equal, static_cast<double>(labels.size()));
}

Metric f1_score(std::span<const float> predictions, std::span<const float> labels) {
  const auto [tp, tn, fp, fn] = count(predictions, labels);
  return make_metric(MetricKind::f1, 2 * tp, 2 * tp + fp + fn);
}

Metric pearson_correlation(std::span<const float> predictions, std::span<const float> labels) {
  check(predictions, labels);
  const std::vector<double> x(predictions.begin(), predictions.end());
  const std::vector<double> y(labels.begin(), labels.end());
  return correlation(MetricKind::pearson, x, y);
}

Metric spearman_correlation(std::span<const float> predictions, std::span<const float> labels) {
  check(predictions, labels);
  return correlation(MetricKind::spearman, ranks(predictions), ranks(labels));
}

Metric compute_metric(MetricKind kind, std::span<const float> predictions, std::span<const float> labels) {
  switch (kind) {
    case MetricKind::matthews:
      return matthews_correlation(predictions, labels);
    case MetricKind::accuracy:
      return accuracy(predictions, labels);
    case MetricKind::f1:
      return f1_score(predictions, labels);
    case MetricKind::pearson:
      return pearson_correlation(predictions, labels);
    case MetricKind::spearman:
      return spearman_correlation(predictions, labels);
  }
  throw std::invalid_argument("expected a known metric, found number " +
                              std::to_string(static_cast<int>(kind)));
}

std::vector<Metric> evaluate(const Task& task, std::span<const float> predictions,
                             std::span<const float> labels) {
  std::vector<Metric> out;
  for (const MetricKind kind : task.metrics) {
    const bool many = kind == MetricKind::matthews && task.num_labels > 2;
    out.push_back(many ? matthews_correlation(predictions, labels, task.num_labels)
                       : compute_metric(kind, predictions, labels));
  }
  return out;
}

}  // namespace sparsegrad::finetune
