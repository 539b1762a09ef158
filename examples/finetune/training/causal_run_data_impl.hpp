// Definitions of CausalRunData, for the files that instantiate it.
#pragma once

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "training/causal_run_data.hpp"
#include "training/evaluation/batch_turns.hpp"
#include "training/state_arrays.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
Evaluation evaluate_model(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                          const CausalDataset& data, const EvaluateOptions& options) {
  Evaluation result;
  const auto require_finite = [&](index_t example, double loss) {
    if (sparsegrad::is_finite(loss)) return;
    throw NonFiniteOutputError(fmt::format(
        "{}: the model's loss of example {} is {}, expected a finite number", data.name(), example, loss));
  };
  BatchTurns turns(options);
  Batch batch;
  std::vector<double> sums(static_cast<std::size_t>(data.size()));  // of each example
  for (index_t first = 0; first < data.size();) {
    index_t next = first;
    index_t rows = 0;
    while (next < data.size() && next - first < options.max_sequences) {
      if (next > first && rows + data.length(next) > options.max_tokens) break;
      rows += data.length(next++);
    }
    if (turns.mine()) {
      batch.clear();
      for (index_t i = first; i < next; ++i)
        data.add_to(batch, i);
      const auto forward = model.forward(ctx, batch);
      std::size_t at = 0;
      for (index_t i = first; i < next; ++i) {
        double& own = sums[static_cast<std::size_t>(i)];
        for (index_t t = 0; t < data.counted(i); ++t)
          own += forward.token_losses[at++];
        if (turns.alone()) require_finite(i, own);
      }
    }
    first = next;
    if (turns.cancelled(first, data.size())) {
      result.cancelled = true;
      return result;
    }
  }
  turns.join(std::span(sums));
  double sum = 0;
  for (index_t i = 0; i < data.size(); ++i) {
    require_finite(i, sums[static_cast<std::size_t>(i)]);
    sum += sums[static_cast<std::size_t>(i)];
  }
  const auto counted = static_cast<double>(std::max<index_t>(data.counted(), 1));
  const auto examples = static_cast<double>(data.size());
  result.loss = sum / counted;
  double squares = 0;
  for (index_t i = 0; i < data.size(); ++i) {
    const double off = sums[static_cast<std::size_t>(i)] - static_cast<double>(data.counted(i)) * result.loss;
    squares += off * off;
  }
  result.metrics.push_back({"perplexity", std::exp(result.loss), true});
  const bool known = data.size() > 1;
  result.metrics.push_back(
      {"loss_standard_error", known ? std::sqrt(examples / (examples - 1) * squares) / counted : 0, known});
  return result;
}

template <class T, class Backend>
Evaluation CausalRunData<T, Backend>::evaluate(Context& ctx, Model& model, const EvaluateOptions& options) {
  Evaluation result = evaluate_model<T, Backend>(ctx, model, held_, options);
  for (const auto& [name, data] : also_) {
    if (result.cancelled) return result;
    const Evaluation other = evaluate_model<T, Backend>(ctx, model, *data, options);
    result.cancelled = other.cancelled;
    result.metrics.push_back({"loss_" + name, other.loss, true});
    for (const Metric& metric : other.metrics) {
      if (metric.name == "loss_standard_error")
        result.metrics.push_back({metric.name + "_" + name, metric.value, metric.defined});
    }
  }
  return result;
}

template <class T, class Backend>
void CausalRunData<T, Backend>::describe(const Model& model, nlohmann::json& fingerprint) const {
  fingerprint["examples"] = {train_.size(), train_.tokens(), held_.size(), held_.tokens()};
  fingerprint["examples_hash"] = {{"train", content_hash(train_)}, {"held_out", content_hash(held_)}};
  for (const auto& [name, data] : also_)
    fingerprint["examples_hash"]["also"][name] = content_hash(*data);
  fingerprint["model"] = fingerprint_of(model.config());
  // What is no part of the state: the file must be the one of before.
  Hash hash;
  bool any = false;
  for (const auto& p : model.parameters().all()) {
    if (p.packed == nullptr) continue;
    hash.add(p.packed->bytes().data(), p.packed->bytes().size());
    any = true;
  }
  if (any) fingerprint["base_hash"] = fmt::format("{:016x}", hash.value());
}

}  // namespace sparsegrad::finetune
