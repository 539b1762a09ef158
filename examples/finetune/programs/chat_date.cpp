#include "programs/chat_date.hpp"

#include "training/output/console.hpp"

namespace sparsegrad::finetune {

void tell_unused_chat_date(const CausalSource& source, const CausalOptions& options) {
  if (options.chat_date == default_chat_date) return;
  const ChatTemplate chat = source.chat_template(options.chat_template, options.chat_date);
  const ChatTemplate undated = source.chat_template(options.chat_template, "");
  const Conversation question{{Role::user, "QUESTION"}};
  if (chat.prompt(question) != undated.prompt(question)) return;
  print_error("warning: --chat-date has no effect with the chat template {}: it needs llama3.1\n",
              chat.name());
}

}  // namespace sparsegrad::finetune
