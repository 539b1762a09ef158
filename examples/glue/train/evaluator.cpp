#include "train/evaluator.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace sparsegrad::glue {

Evaluation evaluate_model(GlueContext& ctx, Model& model, const Task& task, const EncodedDataset& data,
                          const EvaluateOptions& options) {
  Evaluation result;
  result.outputs = model.config().num_labels;
  result.logits.reserve(static_cast<std::size_t>(data.size() * result.outputs));
  Batch batch;
  double loss = 0;
  for (index_t first = 0; first < data.size();) {
    batch.clear();
    index_t next = first;
    while (next < data.size() && batch.sequences() < options.max_sequences &&
           (next == first || batch.tokens() + data.rows(next, options.padding) <= options.max_tokens)) {
      data.add_to(batch, next++, options.padding);
    }
    const Model::Result forward = model.forward(ctx, batch);
    loss += forward.loss * static_cast<double>(batch.sequences());
    for (index_t i = 0; i < forward.logits.rows; ++i) {
      for (index_t c = 0; c < forward.logits.cols; ++c) {
        const float logit = forward.logits(i, c);
        if (!std::isfinite(logit)) {
          throw ModelError(
              fmt::format("{}: the model's logit {} of example {} is {}, expected a finite number",
                          data.name(), c, first + i, logit));
        }
        result.logits.push_back(logit);
      }
    }
    first = next;
    if (options.progress) options.progress(first, data.size());
    if (options.cancelled && options.cancelled()) {
      result.cancelled = true;
      return result;
    }
  }
  result.loss = loss / static_cast<double>(std::max<index_t>(data.size(), 1));
  result.metrics = evaluate(task, predictions_of(task, result), data.labels());
  return result;
}

std::vector<float> predictions_of(const Task& task, const Evaluation& evaluation) {
  if (task.regression) return evaluation.logits;
  std::vector<float> classes;
  const auto width = static_cast<std::ptrdiff_t>(evaluation.outputs);
  for (auto row = evaluation.logits.begin(); row != evaluation.logits.end(); row += width) {
    classes.push_back(static_cast<float>(std::max_element(row, row + width) - row));
  }
  return classes;
}

std::string predictions_text(const Task& task, const Evaluation& evaluation, const EncodedDataset& data) {
  std::string text;
  const auto width = static_cast<std::size_t>(evaluation.outputs);
  for (index_t i = 0; i < data.size(); ++i) {
    for (std::size_t c = 0; c < width; ++c)
      text += fmt::format("{:.9g}\t", evaluation.logits[static_cast<std::size_t>(i) * width + c]);
    text += task.regression ? fmt::format("{:.9g}\n", data.label(i))
                            : fmt::format("{}\n", static_cast<int>(data.label(i)));
  }
  return text;
}

std::string submission_text(const Task& task, const Evaluation& evaluation) {
  std::string text = "index\tprediction\n";
  const std::vector<float> predictions = predictions_of(task, evaluation);
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    text += fmt::format("{}\t", i);
    if (task.regression) {
      text += fmt::format("{:.3f}\n", std::clamp(predictions[i], task.label_min, task.label_max));
    } else if (task.label_names.empty()) {
      text += fmt::format("{}\n", static_cast<int>(predictions[i]));
    } else {
      text += fmt::format("{}\n", task.label_names[static_cast<std::size_t>(predictions[i])]);
    }
  }
  return text;
}

}  // namespace sparsegrad::glue
