// Definition of run_evaluate_on, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "programs/commands.hpp"
#include "programs/interrupt.hpp"
#include "programs/unknown_tokens.hpp"
#include "training/output/console.hpp"
#include "training/output/output_file.hpp"
#include "training/output/progress_bar.hpp"
#include "training/session.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Throws ValueError when the files to write are one file, or one of the model's or the task's data.
void require_own_files(const EvaluateCommand& command, const Task& task, const DataSource& source);

}  // namespace detail

template <class T, class Backend>
int run_evaluate_on(const EvaluateCommand& command) {
  const TrainOptions& options = command.common;
  options.check();
  if (command.split != "dev" && command.split != "train" && command.split != "test")
    throw ValueError(fmt::format("--split is '{}', expected dev, train or test", command.split));
  const bool on_train = command.split == "train";
  const bool labelled = command.split != "test";
  if (!labelled && command.predictions.empty() && command.submission.empty())
    throw ValueError(
        "--split test has no labels to compare with; expected --submission FILE or --predictions FILE");
  const InterruptGuard guard;
  // One split alone: data may lack the others.
  const std::optional<Split> held_out = labelled ? Split::dev : Split::test;
  BasicSession<T, Backend> session(options, on_train, on_train ? std::nullopt : held_out);
  detail::require_own_files(command, session.task(), session.source());
  TrainedParts nothing;
  nothing.mlp.matrices = false;
  nothing.dense = [](std::string_view) { return false; };
  session.load_model(options, nothing);
  const LoadReport& loaded = session.load_report();
  if (!loaded.head.usable) {
    throw ModelError(fmt::format(
        "{}: the model's head has {}, task {} asks for {}: it was trained on something else. Train it on the "
        "task first, for which a new head is made{}",
        options.model.string(), loaded.head.found, session.task().name, loaded.head.wanted,
        loaded.head.only_names ? "; or, where the names mean the same, put the task's into \"id2label\" and "
                                 "\"label2id\" of config.json"
                               : ""));
  }
  if (!loaded.initialized.empty()) {
    throw ModelError(
        fmt::format("{}: the model has no \"{}\": it was never trained on a task. Train it first, and "
                    "evaluate the folder 'model' of the output",
                    options.model.string(), loaded.initialized.front()));
  }
  const EncodedDataset& data = on_train ? session.train() : session.dev();
  if (!options.quiet)
    for (const std::string& note : session.tokenizer_report().notes)
      fmt::print(stderr, "note: {}\n", note);
  warn_of_unknown(session);

  ProgressBar bar(!options.quiet);
  EvaluateOptions evaluate_options;
  evaluate_options.padding = options.padding;
  evaluate_options.max_sequences = std::min(options.batch_size, std::max<index_t>(data.size(), 1));
  evaluate_options.progress = [&](index_t done, index_t total) { bar.show("evaluation", done, total); };
  evaluate_options.cancelled = InterruptGuard::requested;
  session.model().reserve(session.ctx(), std::min<index_t>(evaluate_options.max_tokens, data.tokens()),
                          evaluate_options.max_sequences, data.longest(), false);
  const Evaluation result =
      evaluate_model<T, Backend>(session.ctx(), session.model(), session.task(), data, evaluate_options);
  bar.clear();
  if (result.cancelled) {
    print_error("interrupted\n");
    return interrupted_status;
  }
  if (!command.predictions.empty())
    write_file(command.predictions, predictions_text(session.task(), result, data, labelled));
  if (!command.submission.empty())
    write_file(command.submission, submission_text(session.task(), result, data.indices()));
  if (!options.quiet) {
    print("data: {}, {} examples of {}, {:.2f} % unknown tokens", session.source().text, data.size(),
          command.split, 100 * data.unknown_share());
    if (data.skipped() > 0) print("; {} malformed rows left out", data.skipped());
    if (data.unlabelled() > 0) print("; {} rows without a label left out", data.unlabelled());
    print("\n");
    if (loaded.head.by_number || !loaded.head.rows.empty()) print("head: {}\n", loaded.head_text());
    if (const std::string text = loaded.unused_text(); !text.empty()) print("model: {}\n", text);
  }
  if (!labelled) return 0;
  print("loss {:.6f}\n", result.loss);
  for (const Metric& metric : result.metrics)
    print("{} {:.6f}{}\n", metric.name, metric.value, metric.defined ? "" : " (undefined)");
  return 0;
}

}  // namespace sparsegrad::finetune
