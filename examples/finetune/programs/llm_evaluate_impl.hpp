// Definition of run_llm_evaluate_on, for the files that instantiate it.
#pragma once

#include <algorithm>

#include <fmt/format.h>

#include "programs/interrupt.hpp"
#include "programs/llm_commands.hpp"
#include "programs/llm_model.hpp"
#include "training/causal_run_data.hpp"
#include "training/generation.hpp"
#include "training/output/progress_bar.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
int run_llm_evaluate_on(const LlmEvaluateCommand& command) {
  const TrainOptions& options = command.common;
  const InterruptGuard guard;
  CausalSession<T, Backend> session(options);
  session.load_data(options, false);
  session.load_model(options, nothing_trained());
  const CausalDataset& data = session.held();
  print("{}{}", session.data_text(), session.model_text());
  flush_output();

  ProgressBar bar(!options.quiet);
  EvaluateOptions evaluate;
  evaluate.max_sequences = options.batch_size;
  evaluate.progress = [&](index_t done, index_t total) { bar.show("evaluation", done, total); };
  evaluate.cancelled = InterruptGuard::requested;
  session.model().reserve(session.ctx(), std::min<index_t>(evaluate.max_tokens, data.tokens()),
                          evaluate.max_sequences, data.longest(), false);
  const Evaluation result = evaluate_model<T, Backend>(session.ctx(), session.model(), data, evaluate);
  bar.clear();
  if (result.cancelled) {
    print_error("interrupted\n");
    return interrupted_status;
  }
  print("loss {:.6f}\n", result.loss);
  for (const Metric& metric : result.metrics)
    print("{} {:.6f}{}\n", metric.name, metric.value, metric.defined ? "" : " (undefined)");
  flush_output();
  if (command.exact_match == 0) return 0;

  const auto& examples = session.held_conversations();
  const index_t count = std::min(command.exact_match, static_cast<index_t>(examples.size()));
  GenerationLimits limits;
  limits.max_new_tokens = command.max_new_tokens;
  limits.end_ids = session.source().end_ids(session.chat());
  limits.cancelled = InterruptGuard::requested;
  index_t right = 0;
  index_t asked = 0;
  for (index_t i = 0; i < count; ++i) {
    Conversation question = examples[static_cast<std::size_t>(i)];
    const std::string wanted = final_number(question.back().text);
    question.pop_back();
    const std::vector<std::int32_t> prompt = session.source().encode(session.chat().prompt(question));
    if (static_cast<index_t>(prompt.size()) >= session.source().config().max_positions) continue;
    const std::vector<std::int32_t> ids =
        generate<T, Backend>(session.ctx(), session.model(), prompt, {}, limits);
    if (InterruptGuard::requested()) {
      bar.clear();
      print_error("interrupted\n");
      return interrupted_status;
    }
    ++asked;
    right +=
        !wanted.empty() && final_number(session.source().tokenizer().decode(ids, true)) == wanted ? 1 : 0;
    bar.show("exact match", i + 1, count);
  }
  bar.clear();
  print("exact_match {:.6f} ({} of {}, the last number of a greedy answer)\n",
        asked > 0 ? static_cast<double>(right) / static_cast<double>(asked) : 0.0, right, asked);
  return 0;
}

}  // namespace sparsegrad::finetune
