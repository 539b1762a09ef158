#include "data/chat_template.hpp"

#include <array>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sparsegrad/core/error.hpp>

namespace sparsegrad::finetune {

namespace {

constexpr std::array<std::string_view, 11> all_names_with_plain{
    "chatml",  "smollm2",    "qwen2",        "llama3", "llama3.1", "llama2",
    "mistral", "mistral-v3", "mistral-nemo", "zephyr", "plain"};
constexpr std::span<const std::string_view> all_names(all_names_with_plain.data(),
                                                      all_names_with_plain.size() - 1);

constexpr std::string_view smollm2_system =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr std::string_view qwen2_system = "You are a helpful assistant.";

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// As Python's strip.
std::string stripped(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(blanks) - first + 1));
}

bool is_llama3(std::string_view name) {
  return name == "llama3" || name == "llama3.1";
}

bool is_mistral(std::string_view name) {
  return name.starts_with("mistral");
}

bool is_chatml(std::string_view name) {
  return name == "chatml" || name == "smollm2" || name == "qwen2";
}

/// A literal of the template between two texts, if that is all there is between them.
std::optional<std::string> literal_between(std::string_view text, std::string_view before,
                                           std::string_view after) {
  for (std::size_t at = text.find(before); at != std::string_view::npos; at = text.find(before, at + 1)) {
    const std::size_t begin = at + before.size();
    const std::size_t end = text.find(after, begin);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view literal = text.substr(begin, end - begin);
    if (!literal.empty() && literal.find_first_of("'\"{}\\") == std::string_view::npos)
      return std::string(literal);
  }
  return std::nullopt;
}

}  // namespace

std::span<const std::string_view> ChatTemplate::names() {
  return all_names_with_plain;
}

ChatTemplate::ChatTemplate(std::string_view name, ChatTokens tokens)
    : name_(name), tokens_(std::move(tokens)) {
  bool known = false;
  for (const std::string_view one : all_names_with_plain)
    known = known || one == name;
  if (!known) {
    throw ValueError(fmt::format("--chat-template is '{}', expected one of: {}", name,
                                 fmt::join(all_names_with_plain, ", ")));
  }
  if (name_ == "smollm2") system_ = smollm2_system;
  if (name_ == "qwen2") system_ = qwen2_system;
}

ChatTemplate ChatTemplate::recognise(std::string_view source, std::string_view text, ChatTokens tokens) {
  const auto unknown = [&](std::string_view why) {
    return ValueError(fmt::format(
        "{}: the model's chat template is {}. Give the one that it is closest to, --chat-template {}, or "
        "--chat-template plain, which trains on questions and answers without one",
        source, why, fmt::join(all_names, "|")));
  };
  // The blanks around questions and answers tell v0.3 and Nemo apart; both have the system message in the last question.
  const auto later_mistral = [&] {
    const bool system_last = has(text, "loop.last and system_message is defined");
    const bool alternates = !has(text, "[SYSTEM_PROMPT]") && system_last;
    const bool blank_before = has(text, "\"[INST] \" + message[\"content\"] + \"[/INST]\"");
    const bool blank_answer = has(text, "\" \" + message[\"content\"]|trim + eos_token");
    const bool no_blank = has(text, "\"[INST]\" + message[\"content\"] + \"[/INST]\"");
    const bool plain_answer = has(text, "{{- message[\"content\"] + eos_token");
    if (alternates && blank_before && blank_answer) return ChatTemplate("mistral-v3", tokens);
    if (alternates && no_blank && plain_answer) return ChatTemplate("mistral-nemo", tokens);
    throw unknown("a later one of Mistral's, neither v0.3's nor Nemo's: not known");
  };
  if (text.empty()) throw unknown("missing: it is no chat model, or its template was left out");
  const bool is_llama31 = has(text, "<|start_header_id|>") && has(text, "<|eot_id|>") &&
                          has(text, "Cutting Knowledge Date: December 2023\\n") &&
                          has(text, "\"Today Date: \" + date_string");
  for (const std::string_view part : {"<think>", "enable_thinking", "reasoning_content", "strftime_now"}) {
    const bool is_date = is_llama31 && part == "strftime_now";
    if (has(text, part) && !is_date) throw unknown(fmt::format("not known: it has \"{}\"", part));
  }
  const auto named = [&](std::string_view name) { return ChatTemplate(name, tokens); };
  if (has(text, "<|im_start|>") && has(text, "<|im_end|>") && !has(text, "<|im_sep|>")) {
    ChatTemplate found = named("chatml");
    // In a Jinja text the line's end is spelt \n, or is one.
    std::optional<std::string> system = literal_between(text, "<|im_start|>system\\n", "<|im_end|>");
    if (!system) system = literal_between(text, "<|im_start|>system\n", "<|im_end|>");
    if (system) {
      found.system_ = *system;
      found.name_ = *system == smollm2_system ? "smollm2" : "qwen2";
    }
    return found;
  }
  if (has(text, "<|start_header_id|>") && has(text, "<|eot_id|>")) {
    if (is_llama31) return named("llama3.1");
    if (has(text, "Cutting Knowledge Date"))
      throw unknown("one that is like LLaMA-3.1's, with other dates: not known");
    return named("llama3");
  }
  if (has(text, "[INST]")) {
    if (has(text, "<<SYS>>")) return named("llama2");
    if (has(text, "[AVAILABLE_TOOLS]") || has(text, "[SYSTEM_PROMPT]")) return later_mistral();
    ChatTemplate found = named("mistral");
    if (has(text, "eos_token + ' '") || has(text, "eos_token + \" \"")) found.after_answer_ = " ";
    return found;
  }
  if (has(text, "<|user|>") && has(text, "<|assistant|>") && has(text, "eos_token") && !has(text, "<|end|>"))
    return named("zephyr");
  throw unknown("not known");
}

std::vector<std::string> ChatTemplate::special_texts() const {
  std::vector<std::string> texts;
  if (is_chatml(name_)) texts = {"<|im_start|>", "<|im_end|>"};
  if (is_llama3(name_)) texts = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  return texts;
}

std::vector<ChatPiece> ChatTemplate::render(const Conversation& conversation) const {
  std::vector<ChatPiece> pieces;
  const auto put = [&](bool predicted, std::string text) {
    if (text.empty()) return;
    if (!pieces.empty() && pieces.back().predicted == predicted)
      pieces.back().text += text;
    else
      pieces.push_back({std::move(text), predicted});
  };
  const bool has_system = !conversation.empty() && conversation.front().role == Role::system;
  const bool chatml = is_chatml(name_);
  if (is_llama3(name_) || is_mistral(name_) || name_ == "plain") put(false, tokens_.bos);
  if (chatml && !has_system && !system_.empty())
    put(false, "<|im_start|>system\n" + system_ + "<|im_end|>\n");
  if (name_ == "llama3.1") {
    put(false,
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: " +
            tokens_.date + "\n\n" + (has_system ? stripped(conversation.front().text) : "") + "<|eot_id|>");
  }
  std::string system;  // of llama2 and the later Mistrals, within a question
  const Message* last_question = nullptr;
  for (const Message& message : conversation)
    if (message.role == Role::user) last_question = &message;
  for (const Message& message : conversation) {
    const bool answer = message.role == Role::assistant;
    const std::string role(to_string(message.role));
    const std::string& text = message.text;
    if (chatml) {
      put(false, "<|im_start|>" + role + "\n");
      put(answer, text + "<|im_end|>");
      put(false, "\n");
    } else if (is_llama3(name_)) {
      if (name_ == "llama3.1" && &message == &conversation.front() && has_system) continue;
      put(false, "<|start_header_id|>" + role + "<|end_header_id|>\n\n");
      put(answer, stripped(text) + "<|eot_id|>");
    } else if (name_ == "zephyr") {
      put(false, "<|" + role + "|>\n");
      put(answer, text + tokens_.eos);
      put(false, "\n");
    } else if (name_ == "llama2") {
      if (message.role == Role::system) {
        system = "<<SYS>>\n" + text + "\n<</SYS>>\n\n";
      } else if (answer) {
        put(true, " " + stripped(text) + " " + tokens_.eos);
      } else {
        put(false, tokens_.bos + "[INST] " + stripped(system + text) + " [/INST]");
        system.clear();
      }
    } else if (name_ == "mistral-v3" || name_ == "mistral-nemo") {
      const std::string blank = name_ == "mistral-v3" ? " " : "";
      if (message.role == Role::system) {
        system = text + "\n\n";
      } else if (answer) {
        put(true, name_ == "mistral-v3" ? " " + stripped(text) + tokens_.eos : text + tokens_.eos);
      } else {
        put(false, "[INST]" + blank + (&message == last_question ? system : "") + text + "[/INST]");
      }
    } else if (name_ == "mistral") {
      if (message.role == Role::system) {
        throw DataError(
            "the chat template mistral has no place for a system message: leave it out of the data, or put "
            "it "
            "into the first question");
      }
      if (answer) {
        put(true, text + tokens_.eos);
        put(false, after_answer_);
      } else {
        put(false, "[INST] " + text + " [/INST]");
      }
    } else {
      put(answer, answer ? text + tokens_.eos : text);
      put(false, "\n");
    }
  }
  return pieces;
}

std::string ChatTemplate::prompt(const Conversation& conversation) const {
  std::string text;
  for (const ChatPiece& piece : render(conversation))
    text += piece.text;
  if (is_chatml(name_)) text += "<|im_start|>assistant\n";
  if (is_llama3(name_)) text += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  if (name_ == "zephyr") text += "<|assistant|>\n";
  return text;
}

}  // namespace sparsegrad::finetune
