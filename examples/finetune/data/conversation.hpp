// Questions and answers: the examples that a causal language model is fine-tuned on.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/multiple_choice.hpp"

namespace sparsegrad::finetune {

/// Who says something: what chat templates call "system", "user" and "assistant".
enum class Role { system, user, assistant };
std::string_view to_string(Role role);

struct Message {
  Role role = Role::user;
  std::string text;
  friend bool operator==(const Message&, const Message&) = default;
};

/// One example: messages in turns; the assistant's are the answers.
using Conversation = std::vector<Message>;

/// How a file of conversations is read.
struct ConversationFormat {
  /// Names of the fields of question and answer; empty: told from the file.
  std::string question;
  std::string answer;
  /// Of an OpenAssistant tree: every path to a last answer, and not the one of the best ranks alone.
  bool all_paths = false;
};

/// The conversations of a file.
struct Conversations {
  std::vector<Conversation> examples;
  std::vector<Choices> choices;  ///< of each example, where the records are of multiple choice
  std::string kind;              ///< what the records are: "question, answer"
  std::size_t unanswered = 0;    ///< records without an answer, which are not among the examples
  std::size_t synthetic = 0;     ///< OpenAssistant trees that a model wrote, which are not either
};

/// Reads a file of JSON lines, or of one JSON array, of objects that are all of one kind, told from the first one:
///     question, answer                         (GSM8K)
///     instruction, input, output               (Alpaca; an input that is not empty goes behind the instruction, a blank line
///                                              between)
///     prompt, completion (or response)
///     input, output                            ("### Human:" and "### Assistant:" around the input are taken off)
///     messages: [{role, content}, ...]         (roles system, user, assistant)
///     conversations: [{from, value}, ...]      (ShareGPT's: system, human, gpt)
///     prompt: {text, role, replies: [...]}     (a tree of OpenAssistant)
/// and those of multiple choice (multiple_choice_kind), whose answer is the right choice.
/// Throws DataError naming file and line: it cannot be read, is malformed or cut short, a field is missing, twice or no
/// text, messages do not take turns, no record has an answer.
Conversations read_conversations(const std::filesystem::path& file, const ConversationFormat& format = {});

}  // namespace sparsegrad::finetune
