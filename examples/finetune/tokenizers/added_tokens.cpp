#include "tokenizers/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
namespace {

// Characters of well-formed UTF-8, for the flags of added tokens.
char32_t first_character(std::string_view text) {
  std::size_t end = 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    ++end;
  return decode_utf8(text.substr(0, end)).front();
}

std::size_t last_character_start(std::string_view text) {
  std::size_t start = text.size() - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80U)
    --start;
  return start;
}

std::size_t character_length(std::string_view text) {
  std::size_t end = 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    ++end;
  return end;
}

bool touches_word_before(std::string_view text, std::size_t start) {
  if (start == 0) return false;
  const std::string_view before = text.substr(0, start);
  return unicode::is_word_character(first_character(before.substr(last_character_start(before))));
}

bool touches_word_after(std::string_view text, std::size_t stop) {
  return stop < text.size() && unicode::is_word_character(first_character(text.substr(stop)));
}

std::size_t strip_end(std::string_view text) {
  while (!text.empty()) {
    const std::size_t start = last_character_start(text);
    if (!unicode::is_white_space(first_character(text.substr(start)))) break;
    text = text.substr(0, start);
  }
  return text.size();
}

std::size_t leading_space(std::string_view text) {
  std::size_t length = 0;
  while (length < text.size() && unicode::is_white_space(first_character(text.substr(length)))) {
    length += character_length(text.substr(length));
  }
  return length;
}

}  // namespace

void AddedTokenMatcher::add(std::string pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  ByPattern& same_length = by_first_byte_[static_cast<unsigned char>(pattern.front())][pattern.size()];
  same_length.emplace(std::move(pattern), token);
  empty_ = false;
}

std::vector<Stretch> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Stretch> out;
  if (text.empty()) return out;
  std::size_t done = 0;
  for (std::size_t at = 0; !empty_ && at < text.size();) {
    const Found found = find_at(text, at);
    if (found.token == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at;
    std::size_t stop = at + found.length;
    at = stop;
    const AddedToken& token = *found.token;
    if (token.single_word && (touches_word_before(text, start) || touches_word_after(text, stop))) continue;
    if (token.lstrip) start = std::max(strip_end(text.substr(0, start)), done);
    if (token.rstrip) stop += leading_space(text.substr(stop));
    if (done < start) out.push_back({text.substr(done, start - done), std::nullopt});
    out.push_back({text.substr(start, stop - start), token.id});
    done = stop;
  }
  if (done < text.size()) out.push_back({text.substr(done), std::nullopt});
  return out;
}

AddedTokenMatcher::Found AddedTokenMatcher::find_at(std::string_view text, std::size_t at) const {
  for (const auto& [length, tokens] : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    if (length > text.size() - at) continue;
    const auto found = tokens.find(text.substr(at, length));
    if (found != tokens.end()) return {length, &found->second};
  }
  return {};
}

}  // namespace sparsegrad::finetune
