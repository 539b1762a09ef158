// What holds for every tokenizer that was read, whatever its files were.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "support/fuzz.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::glue::test {

/// Texts are encoded or refused by a TokenizerError, into ids that the tokenizer has, no more than asked for.
inline void check_encodings(const Tokenizer& tokenizer, std::string_view text) {
  const std::array<std::string_view, 3> texts{
      "Hello,  w\xC3\xB6rld's 123\t\xE4\xBD\xA0\xF0\x9F\x99\x82 [MASK]<mask> [UNK]!", "", text};
  const auto end = static_cast<std::int64_t>(tokenizer.vocab_size());
  fuzz::require(tokenizer.pad_id() >= 0 && tokenizer.pad_id() < end, "the padding has no row");
  for (const std::string_view a : texts) {
    try {
      for (const std::int32_t id : tokenizer.tokenize_ids(a))
        fuzz::require(id >= 0 && id < end, "an id has no row");
      for (const std::optional<std::string_view> b : {std::optional<std::string_view>(), {texts[0]}}) {
        const Encoding encoding = tokenizer.encode(a, b, 12);
        fuzz::require(encoding.ids.size() <= 12 && encoding.ids.size() == encoding.type_ids.size(),
                      "an encoding is too long or lacks types");
        for (const std::int32_t id : encoding.ids)
          fuzz::require(id >= 0 && id < end, "an id has no row");
      }
    } catch (const TokenizerError& error) {
      fuzz::refused(error);
    }
  }
}

}  // namespace sparsegrad::glue::test
