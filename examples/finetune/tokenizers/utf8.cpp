#include "tokenizers/utf8.hpp"

#include <cstdint>
#include <cstdio>
#include <stdexcept>

namespace sparsegrad::finetune {
namespace {

/// Length of the well-formed sequence at `text[at]`, or 0 where there is none; its value goes to `c`.
std::size_t sequence_at(std::string_view text, std::size_t at, char32_t& c) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(at);
  if (lead < 0x80) {
    c = lead;
    return 1;
  }
  std::size_t length = 0;
  char32_t smallest = 0;
  if ((lead & 0xE0U) == 0xC0U) {
    length = 2, smallest = 0x80, c = lead & 0x1FU;
  } else if ((lead & 0xF0U) == 0xE0U) {
    length = 3, smallest = 0x800, c = lead & 0x0FU;
  } else if ((lead & 0xF8U) == 0xF0U) {
    length = 4, smallest = 0x10000, c = lead & 0x07U;
  } else {
    return 0;
  }
  if (text.size() - at < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) return 0;
    c = (c << 6U) | (byte(at + i) & 0x3FU);
  }
  const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
  return c < smallest || c > 0x10FFFF || surrogate ? 0 : length;
}

/// Length of the longest beginning of `text`, at least one byte, that could begin a well-formed character;
/// `open`: whether more bytes could complete it.
std::size_t subpart_length(std::string_view text, bool& open) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  std::size_t length = 0;
  std::uint8_t low = 0x80;  // of the second byte
  std::uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  if ((lead & 0xF0U) == 0xE0U) length = 3;
  if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  std::size_t at = 1;
  while (at < length && at < text.size() && byte(at) >= low && byte(at) <= high) {
    low = 0x80;
    high = 0xBF;
    ++at;
  }
  open = at < length && at == text.size();
  return at;
}

}  // namespace

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  char32_t c = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = sequence_at(text, at, c);
    if (length == 0) return at;
    at += length;
  }
  return std::nullopt;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  char32_t c = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = sequence_at(text, at, c);
    if (length == 0) {
      char value[8];
      std::snprintf(value, sizeof value, "0x%02X",
                    static_cast<unsigned>(static_cast<std::uint8_t>(text[at])));
      throw std::runtime_error("text is not UTF-8: byte " + std::to_string(at) + " of " +
                               std::to_string(text.size()) + " is " + value +
                               ", which starts no well-formed character");
    }
    out.push_back(c);
    at += length;
  }
  return out;
}

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<std::uint8_t>(byte))); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0U | (c >> 6U));
    put(0x80U | (c & 0x3FU));
  } else if (c < 0x10000) {
    put(0xE0U | (c >> 12U));
    put(0x80U | ((c >> 6U) & 0x3FU));
    put(0x80U | (c & 0x3FU));
  } else {
    put(0xF0U | (c >> 18U));
    put(0x80U | ((c >> 12U) & 0x3FU));
    put(0x80U | ((c >> 6U) & 0x3FU));
    put(0x80U | (c & 0x3FU));
  }
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text)
    append_utf8(c, out);
  return out;
}

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::size_t at = 0;
  char32_t c = 0;
  while (at < pending_.size()) {
    const std::size_t length = sequence_at(pending_, at, c);
    if (length > 0) {
      out.append(pending_, at, length);
      at += length;
      continue;
    }
    bool open = false;
    const std::size_t subpart = subpart_length(std::string_view(pending_).substr(at), open);
    if (open) break;
    out += replacement;
    at += subpart;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::finish() {
  const bool begun = !pending_.empty();
  pending_.clear();
  return std::string(begun ? replacement : std::string_view());
}

std::string to_utf8(std::string_view bytes) {
  Utf8Stream stream;
  std::string out = stream.push(bytes);
  return out + stream.finish();
}

}  // namespace sparsegrad::finetune
