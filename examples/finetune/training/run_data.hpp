// What a run trains on, and what judges its model.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "models/layers/batch.hpp"
#include "training/evaluation/evaluation.hpp"
#include "training/train_report.hpp"

namespace sparsegrad::finetune {

/// The types of which a model was made: those of Model<T, Backend>.
template <class Model>
struct ModelTypes;
template <template <class, class> class M, class T, class B>
struct ModelTypes<M<T, B>> {
  using Number = T;
  using Backend = B;
};

/// A run's examples as its trainer sees them, whatever the kind of model.
template <class Model>
class RunData {
 public:
  using Context = typename ModelTypes<Model>::Backend::Context;

  RunData() = default;
  RunData(const RunData&) = delete;
  RunData& operator=(const RunData&) = delete;
  virtual ~RunData() = default;

  /// Of the training set, for messages.
  virtual const std::string& name() const = 0;
  /// Training examples.
  virtual index_t size() const = 0;
  /// Rows that training example i takes in a batch.
  virtual index_t rows(index_t i) const = 0;
  /// How much example i counts in the loss of its batch, which is a mean: 1, or its tokens that are predicted.
  virtual index_t weight(index_t i) const = 0;
  /// Appends training example i.
  virtual void add_to(Batch& batch, index_t i) const = 0;

  /// The model on what is held out. Throws as the model, and ModelError where its answers are NaN or Inf.
  virtual Evaluation evaluate(Context& ctx, Model& model, const EvaluateOptions& options) = 0;
  /// Whether `a` is the better evaluation.
  virtual bool is_better(const EvaluationRecord& a, const EvaluationRecord& b) const = 0;

  /// The type of this run's state files.
  virtual std::string_view state_type() const = 0;
  /// Adds what of data and model must be the same for a run to go on.
  virtual void describe(const Model& model, nlohmann::json& fingerprint) const = 0;
};

}  // namespace sparsegrad::finetune
