// Definitions of BasicSession, for the files that instantiate it.
#pragma once

#include <algorithm>

#include <fmt/format.h>

#include "checkpoints/hf_directory_impl.hpp"
#include "training/model_tokenizer.hpp"
#include "training/run_device.hpp"
#include "training/session.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Takes a share of the training set (of its first `limit` examples) out of it. Which examples depends on their number
/// alone: equal for all seeds and run types. Throws ValueError when one of the two parts is empty.
Dataset hold_out(Dataset& train, double share, index_t limit);

/// load_data of what is evaluated on. Where a run that trains has no such files the error names the way without them.
Dataset load_held_out(const Task& task, const DataSource& source, Split split, bool with_train);

}  // namespace detail

template <class T, class Backend>
BasicSession<T, Backend>::BasicSession(const TrainOptions& options, bool with_train,
                                       std::optional<Split> held_out)
    : ctx_(RunDevice<Backend>::make_context(options)),
      task_(find_task(options.task)),
      source_(find_data(task_, options.data, with_train ? Split::train : held_out.value())),
      directory_(open_model_directory(options.model)) {
  directory_.config.num_labels = task_.num_labels;
  directory_.config.label_names.assign(task_.class_names.begin(), task_.class_names.end());
  directory_.config.problem = task_.regression ? ProblemType::regression : ProblemType::classification;
  if (options.max_length > directory_.config.longest_sequence()) {
    throw ValueError(fmt::format("--max-length is {}, expected at most the model's {} positions",
                                 options.max_length, directory_.config.longest_sequence()));
  }
  {
    const std::unique_ptr<Tokenizer> tokenizer =
        load_model_tokenizer(directory_.path, directory_.config, options.max_length, tokenizer_report_);
    const index_t types = directory_.config.type_vocab_size;
    Dataset train;
    if (with_train) train = load_data(task_, source_, Split::train);
    if (with_train && held_out && options.held_out > 0) {
      const Dataset held = detail::hold_out(train, options.held_out, options.train_limit);
      dev_ = std::make_unique<EncodedDataset>(held, *tokenizer, options.max_length, options.dev_limit, types);
    }
    if (with_train) {
      train_ = std::make_unique<EncodedDataset>(train, *tokenizer, options.max_length,
                                                options.held_out > 0 ? 0 : options.train_limit, types);
    }
    if (with_train && held_out && dev_ == nullptr && !task_.second_dev.empty()) {
      const Task& second = find_task(task_.second_dev);
      if (find_task_folder(second, source_.folder, Split::dev)) {
        second_dev_ = std::make_unique<EncodedDataset>(load_data(second, source_, Split::dev), *tokenizer,
                                                       options.max_length, options.dev_limit, types);
      }
    }
    if (held_out && dev_ == nullptr) {
      dev_ = std::make_unique<EncodedDataset>(detail::load_held_out(task_, source_, *held_out, with_train),
                                              *tokenizer, options.max_length, options.dev_limit, types);
    }
  }
  if (const auto sets = data_sets();
      std::any_of(sets.begin(), sets.end(), [](const auto& set) { return set.second->untyped() > 0; })) {
    tokenizer_report_.notes.emplace_back(
        "the model knows one token type: the second sentence of a pair has it too");
  }
  warm_up<Backend>(ctx_);
  RunDevice<Backend>::return_freed_memory();
  program_bytes_ = RunDevice<Backend>::memory_in_use();
}

template <class T, class Backend>
void BasicSession<T, Backend>::load_model(const TrainOptions& options, const TrainedParts& trained) {
  model_ = std::make_unique<Model>(ctx_, directory_.config, trained);
  load_report_ = load_weights(directory_, *model_, options.seed);
  if (options.dropout) model_->set_dropout(*options.dropout);
  RunDevice<Backend>::return_freed_memory();
}

template <class T, class Backend>
std::vector<std::pair<const char*, const EncodedDataset*>> BasicSession<T, Backend>::data_sets() const {
  std::vector<std::pair<const char*, const EncodedDataset*>> sets;
  const auto add = [&](const char* name, const std::unique_ptr<EncodedDataset>& data) {
    if (data != nullptr) sets.emplace_back(name, data.get());
  };
  add("train", train_);
  add("dev", dev_);
  add("second_dev", second_dev_);
  return sets;
}

template <class T, class Backend>
nlohmann::json BasicSession<T, Backend>::data_json() const {
  nlohmann::json json{{"task", task_.name}, {"source", source_.kind}, {"text", source_.text}};
  for (const auto& [name, data] : data_sets()) {
    json[name] = {{"examples", data->size()},          {"tokens", data->tokens()},
                  {"longest", data->longest()},        {"at_max_length", data->at_limit()},
                  {"unknown_tokens", data->unknown()}, {"unknown_share", data->unknown_share()},
                  {"skipped_rows", data->skipped()},   {"unlabelled_rows", data->unlabelled()}};
  }
  return json;
}

template <class T, class Backend>
nlohmann::json BasicSession<T, Backend>::model_json() const {
  const ModelConfig& config = model_->config();
  return {{"directory", directory_.path.string()},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"intermediate", config.intermediate},
          {"heads", config.heads},
          {"parameters", model_->parameters().count()},
          {"head", load_report_.head_text()},
          {"initialized", load_report_.initialized},
          {"unused", load_report_.unused}};
}

}  // namespace sparsegrad::finetune
