// Definition of run_generate_on, for the files that instantiate it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "programs/chat_date.hpp"
#include "programs/interrupt.hpp"
#include "programs/llm_commands.hpp"
#include "programs/llm_model.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// What people should know of an answer's end; nothing where it is as usual.
inline std::string unusual_end(const CausalSource& source, const GenerateCommand& command, std::size_t asked,
                               const std::vector<std::int32_t>& ids) {
  if (ids.empty())
    return "the answer is empty: the first token that the model chose is one that ends an answer";
  std::string text;
  if (static_cast<index_t>(ids.size()) >= command.max_new_tokens)
    text = fmt::format("the answer was cut after --max-new-tokens {}", command.max_new_tokens);
  else if (static_cast<index_t>(asked + ids.size()) >= source.config().max_positions)
    text = fmt::format("the answer was cut at the last of the model's {} positions",
                       source.config().max_positions);
  if (source.tokenizer().decode(ids, true).empty())
    text += fmt::format("{}its {} tokens are special ones, which have no text",
                        text.empty() ? "the answer is empty: " : "; ", ids.size());
  return text;
}

/// Throws ValueError with the place in the text that was given, before a chat template puts it behind its own.
inline void require_utf8_of(const std::string& text, const std::string& what) {
  if (const auto at = find_invalid_utf8(text)) {
    throw ValueError(fmt::format("{} is not UTF-8: its byte {} of {} is 0x{:02X}", what, *at + 1, text.size(),
                                 static_cast<unsigned char>(text[*at])));
  }
}

}  // namespace detail

template <class T, class Backend>
int run_generate_on(const GenerateCommand& command) {
  const TrainOptions& options = command.common;
  const InterruptGuard guard;
  detail::require_utf8_of(command.prompt, "--prompt");
  detail::require_utf8_of(command.system, "--system");
  CausalSession<T, Backend> session(options, command.raw);
  session.load_model(options, nothing_trained());
  const CausalSource& source = session.source();
  if (!command.raw) tell_unused_chat_date(source, options.causal.value());
  GenerationLimits limits;
  limits.max_new_tokens = command.max_new_tokens;
  limits.end_ids = command.raw ? source.config().eos_token_ids : source.end_ids(session.chat());
  limits.cancelled = InterruptGuard::requested;
  limits.ids = static_cast<index_t>(source.tokenizer().vocab_size());

  const auto answer = [&](const std::string& text) {
    std::vector<std::int32_t> prompt;
    if (command.raw) {
      prompt = source.encode(text);
      const CausalSettings& settings = source.tokenizer().settings();
      if (settings.adds_bos && settings.bos_id) prompt.insert(prompt.begin(), *settings.bos_id);
    } else {
      Conversation conversation;
      if (!command.system.empty()) conversation.push_back({Role::system, command.system});
      conversation.push_back({Role::user, text});
      prompt = source.encode(session.chat().prompt(conversation));
    }
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    auto first = start;
    StreamingDecoder stream(source.tokenizer(), true);
    const std::vector<std::int32_t> ids = generate<T, Backend>(
        session.ctx(), session.model(), prompt, command.sampling, limits, [&](std::int32_t id) {
          if (first == start) first = Clock::now();
          print_text(stream.push(id));
          flush_output();
        });
    print_text(stream.finish());
    print("\n");
    flush_output();
    if (options.quiet || InterruptGuard::requested()) return;
    if (const std::string end = detail::unusual_end(source, command, prompt.size(), ids); !end.empty())
      print_error("note: {}\n", end);
    if (ids.size() > 1) {
      const std::chrono::duration<double> seconds = Clock::now() - first;
      const std::chrono::duration<double> before = first - start;
      print_error("({} tokens read in {:.2f} s; {} written, {:.1f} a second)\n", prompt.size(),
                  before.count(), ids.size(), static_cast<double>(ids.size() - 1) / seconds.count());
    }
  };
  if (!command.prompt.empty()) {
    answer(command.prompt);
  } else {
    const bool talk = isatty(STDIN_FILENO) != 0;
    bool asked = false;
    index_t number = 0;
    for (std::string line; !InterruptGuard::requested();) {
      if (talk) print_error("> ");
      if (!std::getline(std::cin, line)) break;
      ++number;
      if (line.empty()) continue;
      detail::require_utf8_of(line, fmt::format("line {} of standard input", number));
      asked = true;
      answer(line);
    }
    if (!asked && !talk && !InterruptGuard::requested()) {
      throw ValueError("standard input has no line with a text, expected a prompt on each, or --prompt TEXT");
    }
  }
  if (!InterruptGuard::requested()) return 0;
  print_error("interrupted\n");
  return interrupted_status;
}

}  // namespace sparsegrad::finetune
