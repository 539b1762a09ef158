#include "tokenizers/split_patterns.hpp"

#include <array>
#include <utility>

#include "tokenizers/encoding.hpp"
#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
namespace {

constexpr std::string_view gpt2_regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3_regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// llama.cpp's names; those of one line have the same pattern and options.
constexpr std::array<std::pair<std::string_view, SplitPattern>, 7> pre_names{
    {{"gpt-2", SplitPattern::gpt2},
     {"smollm", SplitPattern::smollm2},
     {"llama-bpe", SplitPattern::llama3},
     {"llama3", SplitPattern::llama3},
     {"llama-v3", SplitPattern::llama3},
     {"qwen2", SplitPattern::qwen2},
     {"deepseek-r1-qwen", SplitPattern::qwen2}}};

enum class Kind { letter, number, space, other };

Kind kind_of(char32_t c) {
  if (unicode::is_letter(c)) return Kind::letter;
  if (unicode::is_number(c)) return Kind::number;
  return unicode::is_white_space(c) ? Kind::space : Kind::other;
}

bool is_line_end(char32_t c) {
  return c == U'\r' || c == U'\n';
}

/// The letter that (?i:...) compares: of ASCII, and the long s.
char32_t folded(char32_t c) {
  if (c >= U'A' && c <= U'Z') return c + (U'a' - U'A');
  return c == 0x017F ? U's' : c;
}

/// Length of 's, 't, 're, 've, 'm, 'll or 'd at the start of `text`, or 0.
std::size_t contraction_length(std::u32string_view text, bool any_case) {
  for (const std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.size() < ending.size()) continue;
    bool same = true;
    for (std::size_t i = 0; i < ending.size(); ++i)
      same = same && (any_case ? folded(text[i]) : text[i]) == ending[i];
    if (same) return ending.size();
  }
  return 0;
}

/// Where the characters from `start` on that are of its kind end.
std::size_t run_end(std::u32string_view text, std::size_t start) {
  const Kind kind = kind_of(text[start]);
  std::size_t end = start + 1;
  while (end < text.size() && kind_of(text[end]) == kind)
    ++end;
  return end;
}

/// Length of the word that is the white space at the start of `text`: the last of several characters belongs to what
/// follows.
std::size_t space_length(std::u32string_view text) {
  const std::size_t end = run_end(text, 0);
  return end == text.size() || end == 1 ? end : end - 1;
}

std::size_t gpt2_length(std::u32string_view text) {
  if (const std::size_t length = contraction_length(text, false); length > 0) return length;
  const std::size_t space = text[0] == U' ' ? 1 : 0;
  if (space < text.size() && kind_of(text[space]) != Kind::space) return run_end(text, space);
  return space_length(text);
}

/// Of llama3 and qwen2; numbers have at most `digits` characters.
std::size_t llama3_length(std::u32string_view text, std::size_t digits) {
  if (const std::size_t length = contraction_length(text, true); length > 0) return length;
  const Kind kind = kind_of(text[0]);
  if (kind == Kind::letter) return run_end(text, 0);
  const bool letter_follows = text.size() > 1 && kind_of(text[1]) == Kind::letter;
  if (kind != Kind::number && !is_line_end(text[0]) && letter_follows) return run_end(text, 1);
  if (kind == Kind::number) {
    std::size_t end = 1;
    while (end < digits && end < text.size() && kind_of(text[end]) == Kind::number)
      ++end;
    return end;
  }
  const std::size_t space = text[0] == U' ' ? 1 : 0;
  if (space < text.size() && kind_of(text[space]) == Kind::other) {
    std::size_t end = run_end(text, space);
    while (end < text.size() && is_line_end(text[end]))
      ++end;
    return end;
  }
  // White space up to the last end of a line within it.
  std::size_t end = run_end(text, 0);
  while (end > 0 && !is_line_end(text[end - 1]))
    --end;
  return end > 0 ? end : space_length(text);
}

/// Characters of the word at the start of `text`, which is not empty.
std::size_t word_length(std::u32string_view text, SplitPattern pattern) {
  switch (pattern) {
    case SplitPattern::llama3:
      return llama3_length(text, 3);
    case SplitPattern::qwen2:
      return llama3_length(text, 1);
    default:
      return gpt2_length(text);
  }
}

}  // namespace

const char* to_string(SplitPattern pattern) {
  switch (pattern) {
    case SplitPattern::gpt2:
      return "gpt2";
    case SplitPattern::smollm2:
      return "smollm2";
    case SplitPattern::llama3:
      return "llama3";
    default:
      return "qwen2";
  }
}

std::optional<SplitPattern> pattern_of_regex(std::string_view regex) {
  if (regex == gpt2_regex) return SplitPattern::gpt2;
  if (regex == llama3_regex) return SplitPattern::llama3;
  if (regex == qwen2_regex) return SplitPattern::qwen2;
  return std::nullopt;
}

std::optional<SplitPattern> pattern_of_pre(std::string_view pre) {
  for (const auto& [name, pattern] : pre_names)
    if (name == pre) return pattern;
  return std::nullopt;
}

std::string_view pre_of_pattern(SplitPattern pattern) {
  for (const auto& [name, known] : pre_names)
    if (known == pattern) return name;
  return {};
}

std::string known_pre_names() {
  std::string text;
  for (const auto& [name, pattern] : pre_names)
    text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

std::vector<std::string_view> split_words(std::string_view text, SplitPattern pattern) {
  require_utf8(text);
  const std::u32string characters = decode_utf8(text);
  std::u32string_view rest = characters;
  std::vector<std::string_view> words;
  const auto take = [&](std::size_t length) {
    const std::size_t bytes = encode_utf8(rest.substr(0, length)).size();
    words.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
    rest.remove_prefix(length);
  };
  while (!rest.empty()) {
    std::size_t stretch = rest.size();
    if (pattern == SplitPattern::smollm2) {
      stretch = 0;
      while (stretch < rest.size() && !unicode::is_numeric(rest[stretch]))
        ++stretch;
      if (stretch == 0) {
        take(1);
        continue;
      }
    }
    for (const std::size_t end = rest.size() - stretch; rest.size() > end;)
      take(word_length(rest.substr(0, rest.size() - end), pattern));
  }
  return words;
}

}  // namespace sparsegrad::finetune
