// Definition of run_llm_train_on, for the files that instantiate it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "programs/chat_date.hpp"
#include "programs/llm_commands.hpp"
#include "programs/run_training.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_run_data.hpp"
#include "training/causal_session.hpp"

namespace sparsegrad::finetune {

/// A language model on conversations, for run_training.
template <class T, class B>
class CausalRun {
 public:
  using Backend = B;
  static constexpr const char* log_format = llm_run_log_format;
  static constexpr const char* matrices = "chosen";

  explicit CausalRun(const TrainOptions& options) : causal_(options.causal.value()), session_(options) {
    // What is wrong with the choice of matrices is told before the data are read.
    (void)trained_parts(options, session_.source().config());
    session_.load_data(options, true);
  }

  typename Backend::Context& ctx() { return session_.ctx(); }
  index_t program_bytes() const { return session_.program_bytes(); }
  const auto& parameters() { return session_.model().parameters(); }
  MemoryEstimate estimate(const TrainOptions& options) const {
    const CausalDataset& train = session_.train();
    const BatchExtents extents =
        measure_batches(options, train.size(), [&](index_t i) { return train.length(i); });
    return estimate_memory(session_.source().config(), options, extents.max_tokens,
                           session_.source().packed(options.causal->base),
                           planned_steps(options, train.size()));
  }
  BasicTrainer<DecoderModel<T, Backend>>& start(const TrainOptions& options, Communicator* processes) {
    session_.load_model(options, trained_parts(options, session_.source().config()));
    data_.emplace(session_.train(), session_.held());
    for (const auto& [name, data] : session_.also())
      data_->also_evaluate(name, data);
    trainer_.emplace(session_.ctx(), session_.model(), *data_, options, session_.program_bytes(), processes);
    return *trainer_;
  }
  void describe(nlohmann::json& log) const {
    log["data"] = session_.data_json();
    log["model"] = session_.model_json();
  }
  void describe_results(const TrainReport& report, nlohmann::json& log) const {
    for (const Forgetting& f : forgetting_of(report, also_names()))
      log["forgetting"][f.name] = {{"before", f.before}, {"best", f.best}, {"last", f.last}};
  }
  void tell_results(const TrainReport& report) const {
    for (const Forgetting& f : forgetting_of(report, also_names()))
      print("loss on {}: {:.4f} before, {:.4f} of the best model ({:+.4f})\n", f.name, f.before, f.best,
            f.best - f.before);
  }
  void warn(bool talk) const {
    tell_unused_chat_date(session_.source(), causal_);
    if (!talk) return;
    for (const std::string& note : session_.source().notes())
      print_error("note: {}\n", note);
  }
  void tell(const TrainOptions&) const { print("{}{}", session_.data_text(), session_.model_text()); }
  void restore_weights(const TrainOptions& options) { session_.restore_weights(options); }
  void save(const std::filesystem::path& folder, io::DType type) {
    session_.source().save(folder, session_.model(), type);
  }

 private:
  std::vector<std::string> also_names() const {
    std::vector<std::string> names;
    for (const auto& [name, data] : session_.also())
      names.push_back(name);
    return names;
  }

  CausalOptions causal_;
  CausalSession<T, Backend> session_;
  std::optional<CausalRunData<T, Backend>> data_;
  std::optional<BasicTrainer<DecoderModel<T, Backend>>> trainer_;
};

template <class T, class Backend>
int run_llm_train_on(const TrainOptions& options, const std::string& products,
                     const RunProcesses& processes = {}) {
  return run_training<CausalRun<T, Backend>>(options, products, processes);
}

}  // namespace sparsegrad::finetune
