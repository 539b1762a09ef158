#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/bpe_merges.hpp"
#include "tokenizers/split_patterns.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

// Tokenizers of causal language models. In short:
//   const auto tokenizer = load_causal_tokenizer("folder");     // or gguf_tokenizer(file), checkpoints/gguf_tokenizer.hpp
//   std::vector<std::int32_t> ids = tokenizer->encode("2 + 2 =", SpecialText::plain);   // no token is put around it
//   std::string text = to_utf8(tokenizer->decode(ids, true));   // special tokens left out
//   StreamingDecoder stream(*tokenizer, true);                  // token by token, whole characters
//   std::cout << stream.push(id);  ...  << stream.finish();

namespace sparsegrad::finetune {

/// What the text of a special token ("<|im_end|>") within a text is.
enum class SpecialText {
  parsed,  ///< that token: a template's own text
  plain,   ///< text as any other: what a user writes
};

/// What a model's files say beside the tokens themselves.
struct CausalSettings {
  std::optional<std::int32_t> bos_id;  ///< begins a text
  std::optional<std::int32_t> eos_id;  ///< ends an answer
  std::optional<std::int32_t> pad_id;
  std::vector<std::int32_t> end_ids;  ///< all that end an answer, eos_id among them
  bool adds_bos = false;      ///< whether a text of the model begins with bos_id, where no template says so
  bool adds_eos = false;      ///< whether it ends with eos_id
  std::string chat_template;  ///< Jinja; empty where there is none
};

/// Text to ids and back. Immutable after construction; may be used from several threads at once.
class CausalTokenizer {
 public:
  virtual ~CausalTokenizer() = default;

  /// Ids of `text` (UTF-8), equal to those of the package `tokenizers`; none is put before or after them. Throws
  /// TokenizerError with the byte position when `text` is not UTF-8.
  virtual std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const = 0;
  /// The bytes that an id stands for, part of a character perhaps; a special token's are its text. Throws
  /// TokenizerError when no token has this id.
  virtual std::string bytes_of(std::int32_t id) const = 0;
  /// Whether the id is a special token's.
  virtual bool is_special(std::int32_t id) const = 0;
  /// The token of `id` as the vocabulary has it. Throws TokenizerError when no token has this id.
  virtual const std::string& token_of(std::int32_t id) const = 0;
  /// The id of a token as the vocabulary has it; nothing when there is none.
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  /// The largest id plus one. A model may have more rows.
  virtual std::size_t vocab_size() const = 0;

  /// Whether a text that ids become loses a space at its begin, which encoding put there.
  virtual bool strips_first_space() const { return false; }

  /// The bytes of ids one after the other; `to_utf8` makes them text as `tokenizers` does.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const;
  /// Of the model's files.
  const CausalSettings& settings() const { return settings_; }
  /// For people: what was not followed, or is odd, a line each.
  const std::vector<std::string>& notes() const { return notes_; }

 protected:
  CausalTokenizer(CausalSettings settings, std::vector<std::string> notes)
      : settings_(std::move(settings)), notes_(std::move(notes)) {}
  CausalTokenizer(const CausalTokenizer&) = default;
  CausalTokenizer& operator=(const CausalTokenizer&) = default;

  CausalSettings settings_;
  std::vector<std::string> notes_;
};

/// Ids to text one by one; a character of several tokens is given once it is whole.
class StreamingDecoder {
 public:
  /// `tokenizer` is the caller's and outlives this object.
  StreamingDecoder(const CausalTokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  /// The text that this id completes. Throws TokenizerError when no token has this id.
  std::string push(std::int32_t id);
  /// What is left at the end: U+FFFD where a character was begun and not finished.
  std::string finish() { return stream_.finish(); }

 private:
  const CausalTokenizer& tokenizer_;
  bool skip_special_;
  bool at_begin_ = true;
  Utf8Stream stream_;
};

/// What byte-level BPE of a causal model is made of.
struct CausalBpeParts {
  Vocabulary vocabulary;          ///< in the characters that stand for bytes
  Merges merges;                  ///< the first one done first
  std::vector<AddedToken> added;  ///< found in the text before it is split
  SplitPattern pattern = SplitPattern::gpt2;
  bool nfc = false;            ///< texts are composed first (Qwen2)
  bool ignore_merges = false;  ///< a word that is a token is that token, whatever the merges give (LLaMA-3)
  std::optional<std::string> unk_token;  ///< for bytes without a token; without it such bytes are left out
  bool fuse_unk = false;                 ///< one for several such bytes
  CausalSettings settings;
};

/// Byte-level BPE with GPT-2's, SmolLM2's, LLaMA-3's or Qwen2's pattern.
class CausalBpeTokenizer final : public CausalTokenizer {
 public:
  /// Throws TokenizerError: no tokens, ids below 0 or used twice, a token twice, a merge that stands twice or whose parts
  /// or result are no tokens, settings with ids that no token has. Bytes without a token are told in `notes`.
  explicit CausalBpeTokenizer(CausalBpeParts parts);

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const override;
  std::string bytes_of(std::int32_t id) const override;
  bool is_special(std::int32_t id) const override;
  const std::string& token_of(std::int32_t id) const override;
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  std::size_t vocab_size() const override;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// The tokenizer of a Hugging Face folder: tokenizer.json, and of tokenizer_config.json and chat_template.jinja what
/// CausalSettings has. Throws TokenizerError: no such file, another kind of tokenizer, a pattern that is not known, and as
/// the constructor does.
std::unique_ptr<CausalTokenizer> load_causal_tokenizer(const std::filesystem::path& directory);

}  // namespace sparsegrad::finetune
