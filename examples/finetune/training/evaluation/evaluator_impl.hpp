// Definition of evaluate_model, for the files that instantiate it.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "training/evaluation/evaluator.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
Evaluation evaluate_model(typename Backend::Context& ctx, EncoderModel<T, Backend>& model, const Task& task,
                          const EncodedDataset& data, const EvaluateOptions& options) {
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
    const auto forward = model.forward(ctx, batch);
    loss += forward.loss * static_cast<double>(batch.sequences());
    for (index_t i = 0; i < forward.logits.rows; ++i) {
      for (index_t c = 0; c < forward.logits.cols; ++c) {
        const float logit = forward.logits(i, c);
        if (!sparsegrad::is_finite(logit)) {
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

}  // namespace sparsegrad::finetune
