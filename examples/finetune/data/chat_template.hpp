// How a conversation is written for a model.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/conversation.hpp"

namespace sparsegrad::finetune {

/// A part of the text that a model reads, special tokens spelt out.
struct ChatPiece {
  std::string text;
  bool predicted = false;  ///< an answer, with the token that ends it
};

/// The date that the templates of LLaMA-3.1, 3.2 and 3.3 fall back on.
inline constexpr const char* default_chat_date = "26 Jul 2024";

/// What templates put in beside the conversation: the texts of a model's tokens, empty where it has none, and a date.
struct ChatTokens {
  std::string bos;
  std::string eos;
  std::string date = default_chat_date;
};

/// Writes conversations as one kind of model was trained to read them; the text is that of transformers'
/// apply_chat_template. Tools are not written.
///
/// The system message stands in Mistral's last question: transformers leaves it out of a conversation that ends with an
/// answer, but writes it where that answer is asked for; it is written here in both.
///
///     chatml     <|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n
///     smollm2    chatml, with its system message where there is none; qwen2 likewise
///     llama3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>...
///     llama3.1   the same behind a system message that tells dates (LLaMA-3.1, 3.2 and 3.3)
///     llama2     <s>[INST] Q [/INST] A </s>
///     mistral    <s>[INST] Q [/INST]A</s>                          (7B-Instruct v0.1 and v0.2)
///     mistral-v3 <s>[INST] Q[/INST] A</s>                          (v0.3, Large 2407)
///     mistral-nemo <s>[INST]Q[/INST]A</s>                          (Nemo's: the same without blanks)
///     zephyr     <|user|>\nQ</s>\n<|assistant|>\nA</s>\n            (TinyLlama)
///     plain      Q\nA</s>\n                                         (for models without a template)
class ChatTemplate {
 public:
  /// By name. Throws ValueError listing the names that there are.
  ChatTemplate(std::string_view name, ChatTokens tokens);
  /// By the text of a model's template (tokenizer.chat_template of a GGUF, chat_template of tokenizer_config.json). Throws
  /// ValueError where that is none of these: `source` begins the message, which says what to give.
  static ChatTemplate recognise(std::string_view source, std::string_view text, ChatTokens tokens);

  /// The names that there are.
  static std::span<const std::string_view> names();

  const std::string& name() const { return name_; }
  /// The system message of conversations that have none; empty: none.
  const std::string& default_system() const { return system_; }

  /// The special tokens that it writes, which a model must have.
  std::vector<std::string> special_texts() const;

  /// The whole conversation. Throws DataError for a system message where the template has no place for one.
  std::vector<ChatPiece> render(const Conversation& conversation) const;
  /// The text up to where the model's next answer begins.
  std::string prompt(const Conversation& conversation) const;

 private:
  std::string name_;
  std::string system_;
  std::string after_answer_;  ///< mistral's first models have a blank there
  ChatTokens tokens_;
};

}  // namespace sparsegrad::finetune
