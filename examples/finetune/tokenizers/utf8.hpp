#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace sparsegrad::finetune {

/// Byte position of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7: no overlong
/// forms, no surrogates, nothing above U+10FFFF); nothing when all of `text` is well-formed.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

/// Decodes well-formed UTF-8. Throws std::runtime_error naming the byte position and value when it is not.
std::u32string decode_utf8(std::string_view text);

/// Appends the UTF-8 form of `c`, a Unicode scalar value, to `out`.
void append_utf8(char32_t c, std::string& out);

/// Encodes Unicode scalar values as UTF-8.
std::string encode_utf8(std::u32string_view text);

/// Bytes that come piece by piece, as UTF-8: a character is given once it is whole. What begins no well-formed character
/// becomes U+FFFD, once for the longest part that could have begun one (Unicode 15, section 3.9, "maximal subparts";
/// Rust's from_utf8_lossy).
class Utf8Stream {
 public:
  /// The whole characters that there are now, without those given before.
  std::string push(std::string_view bytes);
  /// What is left at the end: U+FFFD where a character was begun and not finished.
  std::string finish();

 private:
  std::string pending_;
};

/// All of `bytes` by way of a Utf8Stream.
std::string to_utf8(std::string_view bytes);

}  // namespace sparsegrad::finetune
