#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune {

/// What a model wants around its sentences: first A last, or first A last [last ..] B last.
struct Frame {
  std::int32_t first = 0;
  std::int32_t last = 0;
  std::size_t between = 1;       ///< how many `last` stand between the sentences of a pair
  std::int32_t second_type = 1;  ///< type id of B and of the `last` after it
};

/// `Tokenizer::encode` by way of `tokenizer.tokenize_ids`.
Encoding encode_in_frame(const Tokenizer& tokenizer, const Frame& frame, std::string_view a,
                         std::optional<std::string_view> b, std::size_t max_length);

/// Throws TokenizerError with the byte position when `text` is not UTF-8.
void require_utf8(std::string_view text);

}  // namespace sparsegrad::finetune
