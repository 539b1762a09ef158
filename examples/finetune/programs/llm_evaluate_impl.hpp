// Definition of run_llm_evaluate_on, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "programs/chat_date.hpp"
#include "programs/interrupt.hpp"
#include "programs/llm_commands.hpp"
#include "programs/llm_model.hpp"
#include "training/causal_run_data.hpp"
#include "training/choice_scores.hpp"
#include "training/generation.hpp"
#include "training/output/progress_bar.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Thrown where Ctrl-C ends a command between two questions.
struct Interrupted {};

/// GSM8K's measure: the last number of a greedy answer is that of the right one.
template <class T, class Backend>
void print_exact_match(CausalSession<T, Backend>& session, const LlmEvaluateCommand& command,
                       ProgressBar& bar) {
  const auto& examples = session.held_conversations();
  const index_t count = std::min(command.exact_match, static_cast<index_t>(examples.size()));
  GenerationLimits limits;
  limits.max_new_tokens = command.max_new_tokens;
  limits.end_ids = session.source().end_ids(session.chat());
  limits.cancelled = InterruptGuard::requested;
  limits.ids = static_cast<index_t>(session.source().tokenizer().vocab_size());
  index_t right = 0;
  index_t asked = 0;
  index_t left_out = 0;
  const index_t no_number =
      std::count_if(examples.begin(), examples.begin() + count,
                    [](const Conversation& c) { return final_number(c.back().text).empty(); });
  if (count > 0 && no_number == count) {
    print_error(
        "note: exact_match is left out: it compares numbers, and none of the first {} answers of {} has "
        "one\n",
        count, command.common.data.string());
    return;
  }
  for (index_t i = 0; i < count; ++i) {
    Conversation question = examples[static_cast<std::size_t>(i)];
    const std::string wanted = final_number(question.back().text);
    question.pop_back();
    const std::vector<std::int32_t> prompt = session.source().encode(session.chat().prompt(question));
    if (static_cast<index_t>(prompt.size()) >= session.source().config().max_positions) {
      ++left_out;
      continue;
    }
    const std::vector<std::int32_t> ids =
        generate<T, Backend>(session.ctx(), session.model(), prompt, {}, limits);
    if (InterruptGuard::requested()) throw Interrupted();
    ++asked;
    right +=
        !wanted.empty() && final_number(session.source().tokenizer().decode(ids, true)) == wanted ? 1 : 0;
    bar.show("exact match", i + 1, count);
  }
  bar.clear();
  print("exact_match {:.6f} ({} of {}, the last number of a greedy answer)\n",
        asked > 0 ? static_cast<double>(right) / static_cast<double>(asked) : 0.0, right, asked);
  if (left_out > 0) print("{} questions left out, which take all of the model's positions\n", left_out);
  if (no_number > 0) print("{} questions counted as wrong, whose right answer has no number\n", no_number);
}

/// The likeliest choice is the right one.
template <class T, class Backend>
void print_choices(CausalSession<T, Backend>& session, const LlmEvaluateCommand& command, ProgressBar& bar) {
  const std::vector<Choices>& choices = session.held_choices();
  const CausalSource& source = session.source();
  const TextEncoder encode = [&](std::string_view text) { return source.encode(text); };
  const index_t count = std::min(command.choices, static_cast<index_t>(choices.size()));
  ChoiceAccuracy accuracy;
  index_t left_out = 0;
  for (index_t i = 0; i < count; ++i) {
    const Choices& own = choices[static_cast<std::size_t>(i)];
    std::vector<Conversation> answers;
    for (const std::string& text : own.texts) {
      answers.push_back(session.held_conversations()[static_cast<std::size_t>(i)]);
      answers.back().back().text = text;
    }
    const CausalDataset data(session.held().name(), answers, session.chat(), encode,
                             source.config().max_positions);
    bar.show("choices", i + 1, count);
    if (data.size() < static_cast<index_t>(answers.size()) || data.cut() > 0) {
      ++left_out;
      continue;
    }
    accuracy.add(score_choices<T, Backend>(session.ctx(), session.model(), data), own.right);
    if (InterruptGuard::requested()) throw Interrupted();
  }
  bar.clear();
  for (const auto& [name, right, by] :
       {std::tuple("choice_accuracy", accuracy.right, "by the log likelihood of the whole answer"),
        std::tuple("choice_accuracy_per_token", accuracy.right_per_token, "by its mean a token")}) {
    print("{} {:.6f} (standard error {:.6f}; {} of {} questions, {})\n", name, accuracy.share(right),
          accuracy.standard_error(right), right, accuracy.questions, by);
  }
  if (left_out > 0) print("{} questions left out, which are longer than the model's positions\n", left_out);
}

}  // namespace detail

template <class T, class Backend>
int run_llm_evaluate_on(const LlmEvaluateCommand& command) {
  const TrainOptions& options = command.common;
  const InterruptGuard guard;
  CausalSession<T, Backend> session(options);
  session.load_data(options, false);
  if (command.choices > 0 && session.held_choices().empty()) {
    throw ValueError(fmt::format(
        "--choices is {}, expected records of multiple choice, with answerKey or an instruction that ends "
        "with \"Answer format: ...\"; those of {} are: {}",
        command.choices, options.data.string(), session.data_kind()));
  }
  session.load_model(options, nothing_trained());
  const CausalDataset& data = session.held();
  tell_unused_chat_date(session.source(), options.causal.value());
  if (!options.quiet) {
    for (const std::string& note : session.source().notes())
      print_error("note: {}\n", note);
    print("{}{}", session.data_text(), session.model_text());
    flush_output();
  }

  ProgressBar bar(!options.quiet);
  EvaluateOptions evaluate;
  evaluate.max_sequences = options.batch_size;
  evaluate.progress = [&](index_t done, index_t total) { bar.show("evaluation", done, total); };
  evaluate.cancelled = InterruptGuard::requested;
  session.model().reserve(session.ctx(), std::min<index_t>(evaluate.max_tokens, data.tokens()),
                          evaluate.max_sequences, data.longest(), false);
  const Evaluation result = evaluate_model<T, Backend>(session.ctx(), session.model(), data, evaluate);
  bar.clear();
  try {
    if (result.cancelled) throw detail::Interrupted();
    print("loss {:.6f}\n", result.loss);
    for (const Metric& metric : result.metrics)
      print("{} {:.6f}{}\n", metric.name, metric.value, metric.defined ? "" : " (undefined)");
    flush_output();
    if (command.choices > 0) detail::print_choices(session, command, bar);
    flush_output();
    if (command.exact_match > 0) detail::print_exact_match(session, command, bar);
  } catch (const detail::Interrupted&) {
    bar.clear();
    print_error("interrupted\n");
    return interrupted_status;
  }
  return 0;
}

}  // namespace sparsegrad::finetune
