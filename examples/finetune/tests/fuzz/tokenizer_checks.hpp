// What holds for every tokenizer that was read, whatever its files were; and the targets of its files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/fuzz.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune::test {

/// Texts are encoded or refused by a TokenizerError, into ids that the tokenizer has, no more than asked for.
inline void check_encodings(const Tokenizer& tokenizer, std::string_view text) {
  constexpr std::string_view sample =
      "Hello,  w\xC3\xB6rld's 12\t\xE4\xBD\xA0\xF0\x9F\x99\x82 [MASK]<mask> [UNK]!";
  const auto end = static_cast<std::int64_t>(tokenizer.vocab_size());
  const auto have_rows = [&](const std::vector<std::int32_t>& ids) {
    for (const std::int32_t id : ids)
      fuzz::require(id >= 0 && id < end, "an id has no row");
  };
  have_rows({tokenizer.pad_id()});
  try {
    const Encoding one = tokenizer.encode(sample, std::nullopt, 12);
    const Encoding pair = tokenizer.encode(text, sample, 12);
    for (const Encoding* encoding : {&one, &pair}) {
      fuzz::require(encoding->ids.size() <= 12 && encoding->ids.size() == encoding->type_ids.size(),
                    "an encoding is too long or lacks types");
      have_rows(encoding->ids);
    }
    have_rows(tokenizer.tokenize_ids(text));
  } catch (const TokenizerError& error) {
    fuzz::refused(error);
  }
}

/// A folder of these files, the last of `parts` a text, is a tokenizer or is refused by a TokenizerError. `size`: bytes
/// of the input.
inline void check_folder(fuzz::Folders& folders, const std::vector<std::string_view>& parts,
                         std::size_t size) {
  const auto folder = folders.with(parts);
  const fuzz::MemoryBound bound(size, 1000);
  try {
    check_encodings(*load_tokenizer(folder), parts.back());
  } catch (const TokenizerError& error) {  // refused: as it should be
    fuzz::refused(error);
  }
}

}  // namespace sparsegrad::finetune::test
