// Definition of run_llm_train_on, for the files that instantiate it.
#pragma once

#include <optional>

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

  explicit CausalRun(const TrainOptions& options) : session_(options) {
    if (options.save) session_.source().require_savable();
    // What is wrong with the choice of matrices is told before the data are read.
    (void)trained_parts(options, session_.source().config());
    (void)session_.source().packed(options.causal->base);
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
  BasicTrainer<DecoderModel<T, Backend>>& start(const TrainOptions& options) {
    session_.load_model(options, trained_parts(options, session_.source().config()));
    data_.emplace(session_.train(), session_.held());
    trainer_.emplace(session_.ctx(), session_.model(), *data_, options, session_.program_bytes());
    return *trainer_;
  }
  void describe(nlohmann::json& log) const {
    log["data"] = session_.data_json();
    log["model"] = session_.model_json();
  }
  void warn() const {
    for (const std::string& note : session_.source().tokenizer().notes())
      print_error("note: {}\n", note);
  }
  void tell(const TrainOptions&) const { print("{}{}", session_.data_text(), session_.model_text()); }
  void restore_weights(const TrainOptions& options) { session_.restore_weights(options); }
  void save(const std::filesystem::path& folder, io::DType type) {
    session_.source().save(folder, session_.model(), type);
  }

 private:
  CausalSession<T, Backend> session_;
  std::optional<CausalRunData<T, Backend>> data_;
  std::optional<BasicTrainer<DecoderModel<T, Backend>>> trainer_;
};

template <class T, class Backend>
int run_llm_train_on(const TrainOptions& options, const std::string& products) {
  return run_training<CausalRun<T, Backend>>(options, products);
}

}  // namespace sparsegrad::finetune
