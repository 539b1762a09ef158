// What the commands on language models have in common: context, data, model.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "data/causal_dataset.hpp"
#include "data/conversation.hpp"
#include "models/host_backend.hpp"
#include "training/causal_source.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// A file that is evaluated on beside what is held out.
struct AlsoEvaluated {
  std::string name;
  std::filesystem::path file;
};

/// What --evaluate-also says. Throws ValueError for one that is not NAME=FILE, a name that is there twice, or one by which
/// a loss would be taken for the standard error of another.
std::vector<AlsoEvaluated> also_evaluated(const CausalOptions& options);

/// Everything a run needs, made in the order in which memory can be told apart: data, then the model.
template <class T, class Backend>
class CausalSession {
 public:
  using Context = typename Backend::Context;
  using Model = DecoderModel<T, Backend>;

  /// Reads the model's files but the weights. Throws what is wrong with them. `raw`: without a chat template.
  explicit CausalSession(const TrainOptions& options, bool raw = false);

  /// Reads the data: with `with_train` the training set and what is held out of it, or the validation file; without, the
  /// validation file, or all of the data, as what is held out. With it those of --evaluate-also. Throws DataError, ValueError or TokenizerError.
  void load_data(const TrainOptions& options, bool with_train);

  Context& ctx() { return ctx_; }
  const CausalSource& source() const { return *source_; }
  const ChatTemplate& chat() const { return *chat_; }
  const CausalDataset& train() const { return *train_; }
  const CausalDataset& held() const { return *held_; }
  /// Those of --evaluate-also, by their names.
  const std::vector<std::pair<std::string, CausalDataset>>& also() const { return also_; }
  /// What held() was made of, for generation.
  const std::vector<Conversation>& held_conversations() const { return held_conversations_; }
  /// The choices of each of these, where the data are of multiple choice; only without a training set. Else empty.
  const std::vector<Choices>& held_choices() const { return held_choices_; }
  /// What the records are: "question, answer".
  const std::string& data_kind() const { return data_kind_; }
  index_t program_bytes() const { return program_bytes_; }

  /// Makes the model with what `trained` says, and loads its weights.
  void load_model(const TrainOptions& options, const TrainedParts& trained);
  Model& model() { return *model_; }
  /// Loads the weights again, and into the adapters what the run starts from.
  void restore_weights(const TrainOptions& options);

  /// Data and model for the run's log.
  nlohmann::json data_json() const;
  nlohmann::json model_json() const;
  /// The same for people, a line each.
  std::string data_text() const;
  std::string model_text() const;

 private:
  Context ctx_;
  std::unique_ptr<CausalSource> source_;
  std::unique_ptr<ChatTemplate> chat_;
  std::unique_ptr<CausalDataset> train_;
  std::unique_ptr<CausalDataset> held_;
  std::vector<std::pair<std::string, CausalDataset>> also_;
  std::vector<Conversation> held_conversations_;
  std::vector<Choices> held_choices_;
  std::string data_kind_;
  std::size_t unanswered_ = 0;
  std::size_t synthetic_ = 0;
  index_t program_bytes_ = 0;
  std::unique_ptr<Model> model_;
};

/// The rows that an example may have: --max-length, or 0 for the model's positions. Throws ValueError where those are
/// fewer.
index_t causal_max_length(const TrainOptions& options, const DecoderConfig& config);

/// How the options say that data are read. Throws ValueError.
ConversationFormat conversation_format(const CausalOptions& options);

}  // namespace sparsegrad::finetune
