// A model's answers on a data set, and what they are worth.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/host_backend.hpp"

#include "data/encoded_dataset.hpp"
#include "models/encoder/encoder_model.hpp"
#include "training/evaluation/evaluation.hpp"

namespace sparsegrad::finetune {

/// The model on the CPU.
using Model = EncoderModel<float, HostBackend>;
using GlueContext = Model::Context;

/// Runs the model over the data without dropout. Throws ModelError when a logit is NaN or Inf.
template <class T, class Backend>
Evaluation evaluate_model(typename Backend::Context& ctx, EncoderModel<T, Backend>& model, const Task& task,
                          const EncodedDataset& data, const EvaluateOptions& options = {});

/// Class numbers (first largest logit) or scores.
std::vector<float> predictions_of(const Task& task, const Evaluation& evaluation);

/// One line an example: logits with 9 significant digits separated by tabs, then the label of the data; of a test split
/// (not `labelled`) nothing behind the last tab.
std::string predictions_text(const Task& task, const Evaluation& evaluation, const EncodedDataset& data,
                             bool labelled = true);

/// A file of a submission to GLUE: a header, then a line an example with its index and the class as the task's files write
/// it, or the score, within the task's range, with 3 decimals. Without `indices` examples are numbered from 0.
std::string submission_text(const Task& task, const Evaluation& evaluation,
                            std::span<const std::string> indices = {});

}  // namespace sparsegrad::finetune
