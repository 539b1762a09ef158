#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

// How byte-level BPE tokenizers cut a text into words, within which merges stay.

namespace sparsegrad::finetune {

/// The patterns of models. A word of the first two has the space before it:
///   gpt2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///   smollm2   every digit by itself, gpt2 for each stretch between digits
///   llama3    (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
///             \s*[\r\n]+|\s+(?!\S)|\s+
///   qwen2     the same with \p{N} for \p{N}{1,3}
enum class SplitPattern { gpt2, smollm2, llama3, qwen2 };

/// Its name: "gpt2".
const char* to_string(SplitPattern pattern);

/// The pattern that a regular expression of a tokenizer.json is; nothing where it is none of gpt2, llama3, qwen2.
std::optional<SplitPattern> pattern_of_regex(std::string_view regex);

/// The pattern that a GGUF file's "tokenizer.ggml.pre" names; nothing where it is none of `known_pre_names`.
std::optional<SplitPattern> pattern_of_pre(std::string_view pre);
/// The name of a pattern there.
std::string_view pre_of_pattern(SplitPattern pattern);
/// Names that `pattern_of_pre` knows, for messages.
std::string known_pre_names();

/// The words of `text`; together they are all of it. Throws TokenizerError with the byte position when `text` is not
/// UTF-8.
std::vector<std::string_view> split_words(std::string_view text, SplitPattern pattern);

}  // namespace sparsegrad::finetune
