// Definition of evaluate_model, for the files that instantiate it.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "training/evaluation/batch_turns.hpp"
#include "training/evaluation/evaluator.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
Evaluation evaluate_model(typename Backend::Context& ctx, EncoderModel<T, Backend>& model, const Task& task,
                          const EncodedDataset& data, const EvaluateOptions& options) {
  Evaluation result;
  result.outputs = model.config().num_labels;
  result.logits.resize(static_cast<std::size_t>(data.size() * result.outputs));
  const auto require_finite = [&](index_t first, index_t last) {
    for (index_t at = first * result.outputs; at < last * result.outputs; ++at) {
      const float logit = result.logits[static_cast<std::size_t>(at)];
      if (sparsegrad::is_finite(logit)) continue;
      throw NonFiniteOutputError(
          fmt::format("{}: the model's logit {} of example {} is {}, expected a finite number", data.name(),
                      at % result.outputs, at / result.outputs, logit));
    }
  };
  BatchTurns turns(options);
  Batch batch;
  std::vector<double> losses;  // of each batch
  for (index_t first = 0; first < data.size();) {
    index_t next = first;
    index_t rows = 0;
    while (next < data.size() && next - first < options.max_sequences) {
      const index_t own = data.rows(next, options.padding);
      if (next > first && rows + own > options.max_tokens) break;
      rows += own;
      ++next;
    }
    losses.push_back(0);
    if (turns.mine()) {
      batch.clear();
      for (index_t i = first; i < next; ++i)
        data.add_to(batch, i, options.padding);
      const auto forward = model.forward(ctx, batch);
      losses.back() = forward.loss * static_cast<double>(batch.sequences());
      for (index_t i = 0; i < forward.logits.rows; ++i) {
        std::copy_n(forward.logits.row(i), result.outputs,
                    result.logits.begin() + static_cast<std::ptrdiff_t>((first + i) * result.outputs));
      }
      if (turns.alone()) require_finite(first, next);
    }
    first = next;
    if (turns.cancelled(first, data.size())) {
      result.cancelled = true;
      return result;
    }
  }
  turns.join(std::span(result.logits));
  turns.join(std::span(losses));
  require_finite(0, data.size());
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  result.loss = loss / static_cast<double>(std::max<index_t>(data.size(), 1));
  result.metrics = evaluate(task, predictions_of(task, result), data.labels());
  return result;
}

}  // namespace sparsegrad::finetune
