// Definitions of GlueRunData, for the files that instantiate it.
#pragma once

#include <nlohmann/json.hpp>

#include "training/evaluation/evaluator_impl.hpp"
#include "training/glue_run_data.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
Evaluation GlueRunData<T, Backend>::evaluate(Context& ctx, Model& model, const EvaluateOptions& options) {
  Evaluation result = evaluate_model<T, Backend>(ctx, model, task_, dev_, options);
  if (second_dev_ == nullptr || result.cancelled) return result;
  const Evaluation second = evaluate_model<T, Backend>(ctx, model, task_, *second_dev_, options);
  result.cancelled = second.cancelled;
  for (Metric metric : second.metrics) {
    metric.name += second_suffix_;
    result.metrics.push_back(std::move(metric));
  }
  return result;
}

template <class T, class Backend>
void GlueRunData<T, Backend>::describe(const Model& model, nlohmann::json& fingerprint) const {
  const index_t second = second_dev_ == nullptr ? 0 : second_dev_->tokens();
  fingerprint["examples"] = {train_.size(), train_.tokens(), dev_.size(), dev_.tokens(), second};
  fingerprint["examples_hash"] = {{"train", content_hash(train_)},
                                  {"dev", content_hash(dev_)},
                                  {"second_dev", second_dev_ == nullptr ? "" : content_hash(*second_dev_)}};
  const ModelConfig& config = model.config();  // what the count of parameters does not tell
  fingerprint["model"] = {{"num_attention_heads", config.heads},
                          {"layer_norm_eps", config.layer_norm_eps},
                          {"hidden_dropout_prob", config.hidden_dropout},
                          {"attention_probs_dropout_prob", config.attention_dropout},
                          {"classifier_dropout", config.classifier_dropout},
                          {"first_position", config.first_position()}};
}

}  // namespace sparsegrad::finetune
