#include "training/evaluation/evaluator_impl.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace sparsegrad::finetune {

std::vector<float> predictions_of(const Task& task, const Evaluation& evaluation) {
  if (task.regression) return evaluation.logits;
  std::vector<float> classes;
  const auto width = static_cast<std::ptrdiff_t>(evaluation.outputs);
  for (auto row = evaluation.logits.begin(); row != evaluation.logits.end(); row += width) {
    classes.push_back(static_cast<float>(std::max_element(row, row + width) - row));
  }
  return classes;
}

std::string predictions_text(const Task& task, const Evaluation& evaluation, const EncodedDataset& data,
                             bool labelled) {
  std::string text;
  const auto width = static_cast<std::size_t>(evaluation.outputs);
  for (index_t i = 0; i < data.size(); ++i) {
    for (std::size_t c = 0; c < width; ++c)
      text += fmt::format("{:.9g}\t", evaluation.logits[static_cast<std::size_t>(i) * width + c]);
    if (labelled) {
      text += task.regression ? fmt::format("{:.9g}", data.label(i))
                              : fmt::format("{}", static_cast<int>(data.label(i)));
    }
    text += '\n';
  }
  return text;
}

std::string submission_text(const Task& task, const Evaluation& evaluation,
                            std::span<const std::string> indices) {
  std::string text = "index\tprediction\n";
  const std::vector<float> predictions = predictions_of(task, evaluation);
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    text += indices.empty() ? fmt::format("{}\t", i) : fmt::format("{}\t", indices[i]);
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

template Evaluation evaluate_model(GlueContext&, Model&, const Task&, const EncodedDataset&,
                                   const EvaluateOptions&);

}  // namespace sparsegrad::finetune
