// Conversations as a run's data, and what they say of a language model.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "data/causal_dataset.hpp"
#include "models/decoder/decoder_model.hpp"
#include "training/run_data.hpp"

namespace sparsegrad::finetune {

/// Of all that a run takes from a data set.
std::string content_hash(const CausalDataset& data);

/// What must be the same for a run to go on, and the count of parameters does not tell.
nlohmann::json fingerprint_of(const DecoderConfig& config);

/// The model's loss on a data set: the mean over all targets, with their
///     perplexity           exp(loss)
///     loss_standard_error  of the mean, examples being independent and their targets not:
///                          sqrt(N / (N - 1) sum_i (L_i - n_i loss)^2) / sum_i n_i for L_i the sum over the n_i targets of
///                          example i (the standard error of a ratio of means)
/// Throws ModelError when a loss is NaN or Inf.
template <class T, class Backend>
Evaluation evaluate_model(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                          const CausalDataset& data, const EvaluateOptions& options = {});

/// A language model's training set, and what is held out.
template <class T, class Backend>
class CausalRunData final : public RunData<DecoderModel<T, Backend>> {
 public:
  using Model = DecoderModel<T, Backend>;
  using Context = typename Backend::Context;

  /// Both are borrowed.
  CausalRunData(const CausalDataset& train, const CausalDataset& held) : train_(train), held_(held) {}

  /// Evaluates further data (borrowed) with each evaluation of what is held out: metrics loss_NAME and
  /// loss_standard_error_NAME, which choose nothing.
  void also_evaluate(std::string name, const CausalDataset& data) {
    also_.emplace_back(std::move(name), &data);
  }

  const std::string& name() const override { return train_.name(); }
  index_t size() const override { return train_.size(); }
  index_t rows(index_t i) const override { return train_.length(i); }
  index_t weight(index_t i) const override { return train_.counted(i); }
  void add_to(Batch& batch, index_t i) const override { train_.add_to(batch, i); }
  Evaluation evaluate(Context& ctx, Model& model, const EvaluateOptions& options) override;
  bool is_better(const EvaluationRecord& a, const EvaluationRecord& b) const override {
    return a.loss < b.loss;
  }
  std::string_view state_type() const override { return "sparsegrad-llm state 1"; }
  void describe(const Model& model, nlohmann::json& fingerprint) const override;

 private:
  const CausalDataset& train_;
  const CausalDataset& held_;
  std::vector<std::pair<std::string, const CausalDataset*>> also_;
};

/// The loss on further data before a run, in its best model, and at its end.
struct Forgetting {
  std::string name;
  double before = 0;
  double best = 0;
  double last = 0;
};

/// What a run's evaluations say of the data of these names; empty before the first evaluation.
std::vector<Forgetting> forgetting_of(const TrainReport& report, std::span<const std::string> names);

}  // namespace sparsegrad::finetune
