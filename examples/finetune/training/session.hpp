// What train, evaluate and inspect have in common: context, data, model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/hf_directory.hpp"
#include "data/data_source.hpp"
#include "tokenizers/tokenizer.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune {

/// Everything a run needs, made in the order in which memory can be told apart: data, then the model.
template <class T, class Backend>
class BasicSession {
 public:
  using Context = typename Backend::Context;
  using Model = EncoderModel<T, Backend>;

  /// `with_train`: the training split is read too. `held_out`: what dev() holds; nothing: the training split alone is
  /// read. Throws what is wrong with task, data or model directory.
  BasicSession(const TrainOptions& options, bool with_train, std::optional<Split> held_out = Split::dev);

  Context& ctx() { return ctx_; }
  const Task& task() const { return task_; }
  const DataSource& source() const { return source_; }
  const ModelDirectory& directory() const { return directory_; }
  const EncodedDataset& train() const { return *train_; }
  const EncodedDataset& dev() const { return *dev_; }
  /// The task's second dev set (MNLI's mismatched one): null when it has none, its file is not there, or a held-out part
  /// takes dev's place.
  const EncodedDataset* second_dev() const { return second_dev_.get(); }
  /// The data sets that were read, by their names in the log: train, dev, second_dev.
  std::vector<std::pair<const char*, const EncodedDataset*>> data_sets() const;
  const TokenizerReport& tokenizer_report() const { return tokenizer_report_; }
  index_t program_bytes() const { return program_bytes_; }

  /// Makes the model with what `trained` says, loads its weights and sets the dropout that the options ask for. The head
  /// answers with the task's classes in the task's order; where the file has none for them it comes from the seed.
  void load_model(const TrainOptions& options, const TrainedParts& trained);
  Model& model() { return *model_; }
  const LoadReport& load_report() const { return load_report_; }

  /// Data and model for the run's log.
  nlohmann::json data_json() const;
  nlohmann::json model_json() const;

 private:
  Context ctx_;
  const Task& task_;
  DataSource source_;
  ModelDirectory directory_;
  TokenizerReport tokenizer_report_;
  std::unique_ptr<EncodedDataset> train_;
  std::unique_ptr<EncodedDataset> dev_;
  std::unique_ptr<EncodedDataset> second_dev_;
  index_t program_bytes_ = 0;
  std::unique_ptr<Model> model_;
  LoadReport load_report_;
};

using Session = BasicSession<float, HostBackend>;

}  // namespace sparsegrad::finetune
