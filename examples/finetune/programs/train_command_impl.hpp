// Definition of run_train_on, for the files that instantiate it.
#pragma once

#include <optional>

#include <fmt/format.h>

#include "programs/commands.hpp"
#include "programs/run_training.hpp"
#include "programs/unknown_tokens.hpp"
#include "training/model_tokenizer.hpp"
#include "training/session.hpp"

namespace sparsegrad::finetune {

/// An encoder on a GLUE task, for run_training.
template <class T, class B>
class GlueRun {
 public:
  using Backend = B;
  static constexpr const char* log_format = run_log_format;
  static constexpr const char* matrices = "MLP";

  explicit GlueRun(const TrainOptions& options) : session_(options, true) {}

  typename Backend::Context& ctx() { return session_.ctx(); }
  index_t program_bytes() const { return session_.program_bytes(); }
  const auto& parameters() { return session_.model().parameters(); }
  MemoryEstimate estimate(const TrainOptions& options) const {
    return estimate_memory(session_.directory().config, options,
                           measure_batches(options, session_.train()).max_tokens);
  }
  GlueTrainer<T, Backend>& start(const TrainOptions& options, Communicator* processes) {
    session_.load_model(options, trained_parts(options));
    trainer_.emplace(session_.ctx(), session_.model(), session_.task(), session_.train(), session_.dev(),
                     options, session_.program_bytes(), processes);
    if (session_.second_dev() != nullptr) trainer_->also_evaluate(*session_.second_dev(), "_mm");
    return *trainer_;
  }
  void describe(nlohmann::json& log) const {
    log["data"] = session_.data_json();
    log["tokenizer"] = to_json(session_.tokenizer_report());
    log["model"] = session_.model_json();
  }
  void describe_results(const TrainReport&, nlohmann::json&) const {}
  void tell_results(const TrainReport&) const {}
  void warn(bool) const { warn_of_unknown(session_); }
  void tell(const TrainOptions& options) {
    print("data: {}\n", session_.source().text);
    print("      {} training examples, {} {} examples", session_.train().size(), session_.dev().size(),
          options.held_out > 0 ? "held-out" : "dev");
    if (session_.second_dev() != nullptr)
      print(" and {} of the second dev set", session_.second_dev()->size());
    const index_t skipped = session_.train().skipped() + session_.dev().skipped();
    if (skipped > 0) print("; {} malformed rows left out", skipped);
    const index_t unlabelled = session_.train().unlabelled() + session_.dev().unlabelled();
    if (unlabelled > 0) print("; {} rows without a label left out", unlabelled);
    print("\n");
    print("      unknown tokens:{}\n", unknown_text(session_));
    print("{}", finetune::describe(session_.tokenizer_report()));
    print("model: {} layers of width {}, {} parameters\n", session_.model().config().layers,
          session_.model().config().hidden, session_.model().parameters().count());
    if (const std::string text = session_.load_report().text(); !text.empty()) print("       {}\n", text);
  }
  void restore_weights(const TrainOptions& options) {
    load_weights(session_.directory(), session_.model(), options.seed);
  }
  void save(const std::filesystem::path& folder, io::DType type) {
    save_model(folder, session_.directory(), session_.model(), type);
  }

 private:
  BasicSession<T, Backend> session_;
  std::optional<GlueTrainer<T, Backend>> trainer_;
};

template <class T, class Backend>
int run_train_on(const TrainOptions& options, const std::string& products, const RunProcesses& processes) {
  return run_training<GlueRun<T, Backend>>(options, products, processes);
}

}  // namespace sparsegrad::finetune
