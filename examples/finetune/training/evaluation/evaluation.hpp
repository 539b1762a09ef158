// What an evaluation is asked for, and what it finds.
#pragma once

#include <functional>
#include <vector>

#include <sparsegrad/extras/communicator.hpp>

#include "data/padding.hpp"
#include "models/model_error.hpp"
#include "training/evaluation/metrics.hpp"

namespace sparsegrad::finetune {

struct EvaluateOptions {
  Padding padding = Padding::unpadded;
  index_t max_tokens = 4096;   ///< rows of a batch (one example may have more)
  index_t max_sequences = 64;  ///< examples of a batch
  std::function<void(index_t done, index_t total)> progress;
  std::function<bool()> cancelled;  ///< asked after each batch
  /// Those that share the batches, in turn; null: this one makes all. Each has the whole result.
  Communicator* processes = nullptr;
};

/// A model that computes NaN or Inf; the text names the example.
class NonFiniteOutputError : public ModelError {
 public:
  using ModelError::ModelError;
};

struct Evaluation {
  double loss = 0;  ///< mean over the examples, or over what they predict
  std::vector<Metric> metrics;
  std::vector<float> logits;  ///< [examples, outputs] of a model that classifies
  index_t outputs = 0;
  bool cancelled = false;  ///< nothing else is valid then
};

}  // namespace sparsegrad::finetune
