#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sparsegrad::finetune {

/// A token found in the raw or the normalised text before anything is split: the special tokens and those
/// that users add.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no letter, digit or underscore touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = false;   ///< looked for in the normalised text, not in the raw text
  bool special = false;      ///< marks, not text: left out where ids become text
};

/// A stretch of text: the id of an added token, or nothing for text still to be split.
struct Stretch {
  std::string_view text;
  std::optional<std::int32_t> id;
};

/// Finds added tokens in text: leftmost first, the longest of those that start at the same place.
class AddedTokenMatcher {
 public:
  /// `pattern` is what is looked for: the token's content, or its normalised form.
  void add(std::string pattern, const AddedToken& token);

  /// Cuts well-formed UTF-8 into added tokens and what lies between them.
  std::vector<Stretch> split(std::string_view text) const;

 private:
  /// A pattern's length, and the token.
  struct Found {
    std::size_t length = 0;
    const AddedToken* token = nullptr;
  };
  using ByPattern = std::map<std::string, AddedToken, std::less<>>;

  Found find_at(std::string_view text, std::size_t at) const;

  /// By the pattern's first byte, then by its length, the longest first.
  std::array<std::map<std::size_t, ByPattern, std::greater<>>, 256> by_first_byte_;
  bool empty_ = true;
};

}  // namespace sparsegrad::finetune
