// A GLUE task as a run's data.
#pragma once

#include <string>
#include <utility>

#include <nlohmann/json_fwd.hpp>

#include "data/encoded_dataset.hpp"
#include "training/evaluation/evaluator.hpp"
#include "training/run_data.hpp"

namespace sparsegrad::finetune {

/// Of all that a run takes from a data set: other sentences, labels, rows or vocabularies give another.
std::string content_hash(const EncodedDataset& data);

/// An encoder's training set, and its dev sets with the task's metrics.
template <class T, class Backend>
class GlueRunData final : public RunData<EncoderModel<T, Backend>> {
 public:
  using Model = EncoderModel<T, Backend>;
  using Context = typename Backend::Context;

  /// All but the padding is borrowed.
  GlueRunData(const Task& task, const EncodedDataset& train, const EncodedDataset& dev, Padding padding)
      : task_(task), train_(train), dev_(dev), padding_(padding) {}

  /// Evaluates a second dev set (borrowed) with each evaluation of dev: the same metrics, `suffix` behind their names,
  /// which choose nothing.
  void also_evaluate(const EncodedDataset& data, std::string suffix) {
    second_dev_ = &data;
    second_suffix_ = std::move(suffix);
  }

  const std::string& name() const override { return train_.name(); }
  index_t size() const override { return train_.size(); }
  index_t rows(index_t i) const override { return train_.rows(i, padding_); }
  index_t weight(index_t) const override { return 1; }
  void add_to(Batch& batch, index_t i) const override { train_.add_to(batch, i, padding_); }
  Evaluation evaluate(Context& ctx, Model& model, const EvaluateOptions& options) override;
  bool is_better(const EvaluationRecord& a, const EvaluationRecord& b) const override {
    return finetune::is_better(a.metrics.front(), b.metrics.front());
  }
  std::string_view state_type() const override { return "sparsegrad-glue state 2"; }
  void describe(const Model& model, nlohmann::json& fingerprint) const override;

 private:
  const Task& task_;
  const EncodedDataset& train_;
  const EncodedDataset& dev_;
  const EncodedDataset* second_dev_ = nullptr;
  std::string second_suffix_;
  Padding padding_;
};

namespace detail {

/// So that a trainer's data are made before the trainer.
template <class T, class Backend>
struct GlueTrainerData {
  GlueRunData<T, Backend> data;
};

}  // namespace detail

}  // namespace sparsegrad::finetune
