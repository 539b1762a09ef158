// Definitions of CausalSession, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoints/adapter_reader.hpp"
#include "data/conversation.hpp"
#include "training/causal_session.hpp"
#include "training/run_device.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
CausalSession<T, Backend>::CausalSession(const TrainOptions& options, bool raw)
    : ctx_(RunDevice<Backend>::make_context(options)),
      source_(std::make_unique<CausalSource>(options.model, options.causal.value().change)),
      chat_(raw ? nullptr
                : std::make_unique<ChatTemplate>(source_->chat_template(options.causal.value().chat_template,
                                                                        options.causal->chat_date))) {}

template <class T, class Backend>
void CausalSession<T, Backend>::load_data(const TrainOptions& options, bool with_train) {
  const CausalOptions& causal = options.causal.value();
  const index_t max_length = causal_max_length(options, source_->config());
  const ConversationFormat format = conversation_format(causal);
  const std::vector<AlsoEvaluated> also = also_evaluated(causal);
  const TextEncoder encode = [&](std::string_view text) { return source_->encode(text); };
  const auto read = [&](const std::filesystem::path& file) {
    Conversations found = read_conversations(file, format);
    data_kind_ = found.kind;
    unanswered_ += found.unanswered;
    synthetic_ += found.synthetic;
    if (!with_train) held_choices_ = std::move(found.choices);
    return std::move(found.examples);
  };
  const auto limit = [](auto& examples, index_t most) {
    if (most > 0 && most < static_cast<index_t>(examples.size()))
      examples.resize(static_cast<std::size_t>(most));
  };
  std::vector<Conversation> held;
  if (with_train) {
    std::vector<Conversation> train = read(options.data);
    if (causal.validation.empty()) held = hold_out(train, options.held_out, causal.split_seed);
    limit(train, options.train_limit);
    train_ = std::make_unique<CausalDataset>(options.data.string(), train, *chat_, encode, max_length);
  }
  if (!causal.validation.empty())
    held = read(causal.validation);
  else if (!with_train)
    held = read(options.data);
  limit(held, options.dev_limit);
  limit(held_choices_, options.dev_limit);
  const std::string name = causal.validation.empty() ? options.data.string() : causal.validation.string();
  held_ = std::make_unique<CausalDataset>(name, held, *chat_, encode, max_length);
  std::vector<const CausalDataset*> all{train_.get(), held_.get()};
  also_.reserve(also.size());
  for (const AlsoEvaluated& one : also) {
    // Another file may well have other fields than those that --fields names.
    ConversationFormat own;
    own.all_paths = format.all_paths;
    std::vector<Conversation> examples = read_conversations(one.file, own).examples;
    limit(examples, options.dev_limit);
    also_.emplace_back(one.name, CausalDataset(one.file.string(), examples, *chat_, encode, max_length));
    all.push_back(&also_.back().second);
  }
  for (const CausalDataset* data : all) {
    if (data == nullptr || data->size() > 0) continue;
    const char* part = data == train_.get()                ? "training "
                       : data == held_.get() && with_train ? "held-out "
                                                           : "";
    throw DataError(
        fmt::format("{}: none of the {} {}examples has an answer within --max-length {} tokens (the longest "
                    "has {}); give "
                    "more, at most the model's {} positions",
                    data->name(), data->left_out(), part, max_length, data->longest_uncut(),
                    source_->config().max_positions));
  }
  warm_up<Backend>(ctx_);
  held_conversations_ = std::move(held);
  RunDevice<Backend>::return_freed_memory();
  program_bytes_ = RunDevice<Backend>::memory_in_use();
}

template <class T, class Backend>
void CausalSession<T, Backend>::restore_weights(const TrainOptions& options) {
  source_->load(*model_, options.seed);
  const std::filesystem::path& start = options.causal.value().start;
  if (start.empty()) return;
  const Adapter adapter = read_adapter(start, source_->config());
  for (const AdapterMatrix& m : adapter.matrices) {
    const std::string name = matrix_name(m.block, m.kind);
    const std::string matrix = name.substr(0, name.rfind(".weight"));
    model_->set_values(model_->parameters().at(matrix + ".lora_A.weight").weight, m.a);
    model_->set_values(model_->parameters().at(matrix + ".lora_B.weight").weight, m.b);
  }
}

template <class T, class Backend>
void CausalSession<T, Backend>::load_model(const TrainOptions& options, const TrainedParts& trained) {
  const CausalOptions causal = options.causal.value_or(CausalOptions());
  model_ = std::make_unique<Model>(ctx_, source_->config(), trained, source_->packed(causal.base));
  model_->recompute(causal.recompute);
  restore_weights(options);
  RunDevice<Backend>::return_freed_memory();
}

template <class T, class Backend>
nlohmann::json CausalSession<T, Backend>::data_json() const {
  nlohmann::json json{{"kind", data_kind_},
                      {"chat_template", chat_->name()},
                      {"unanswered_records", unanswered_},
                      {"synthetic_trees", synthetic_}};
  const auto describe = [](const CausalDataset& data) -> nlohmann::json {
    return {{"file", data.name()},        {"examples", data.size()},   {"tokens", data.tokens()},
            {"counted", data.counted()},  {"longest", data.longest()}, {"cut", data.cut()},
            {"left_out", data.left_out()}};
  };
  if (train_ != nullptr) json["train"] = describe(*train_);
  json["held_out"] = describe(*held_);
  for (const auto& [name, data] : also_)
    json["also"][name] = describe(data);
  return json;
}

template <class T, class Backend>
nlohmann::json CausalSession<T, Backend>::model_json() const {
  const DecoderConfig& config = source_->config();
  return {{"path", source_->path().string()},
          {"form", source_->form()},
          {"family", to_string(config.family)},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"intermediate", config.intermediate},
          {"heads", config.heads},
          {"key_value_heads", config.kv_heads},
          {"vocabulary", config.vocab_size},
          {"parameters", model_->parameters().count()}};
}

template <class T, class Backend>
std::string CausalSession<T, Backend>::data_text() const {
  std::string text = fmt::format("data: {}, chat template {}\n", data_kind_, chat_->name());
  const auto tell = [&](const std::string& name, const CausalDataset& data) {
    text += fmt::format("      {} {} examples of {}: {} tokens, {} of them answers; the longest has {}",
                        data.size(), name, data.name(), data.tokens(), data.counted(), data.longest());
    if (data.cut() > 0) text += fmt::format("; {} cut to it", data.cut());
    if (data.left_out() > 0)
      text += fmt::format("; {} left out, whose questions alone are longer", data.left_out());
    text += "\n";
  };
  if (train_ != nullptr) tell("training", *train_);
  tell("held-out", *held_);
  for (const auto& [name, data] : also_)
    tell(fmt::format("'{}'", name), data);
  if (unanswered_ > 0) text += fmt::format("      {} records without an answer left out\n", unanswered_);
  if (synthetic_ > 0) text += fmt::format("      {} synthetic trees left out\n", synthetic_);
  return text;
}

template <class T, class Backend>
std::string CausalSession<T, Backend>::model_text() const {
  const DecoderConfig& config = source_->config();
  return fmt::format("model: {}, {} blocks of width {}, {} parameters ({})\n", to_string(config.family),
                     config.layers, config.hidden, model_->parameters().count(), source_->form());
}

}  // namespace sparsegrad::finetune
