// What holds for every causal tokenizer that was read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "support/fuzz.hpp"
#include "tokenizers/causal_tokenizer.hpp"

namespace sparsegrad::finetune::test {

/// Texts are encoded or refused by a TokenizerError, into ids that the tokenizer has; their text is UTF-8, also id by id.
inline void check_causal(const CausalTokenizer& tokenizer, std::string_view text) {
  constexpr std::string_view sample =
      "Hello,  we're 12\t\xE4\xBD\xA0\xF0\x9F\x99\x82\r\n e\xCC\x81<|im_start|><tool>!";
  const auto end = static_cast<std::int64_t>(tokenizer.vocab_size());
  try {
    for (const std::string_view one : {sample, text}) {
      for (const SpecialText special : {SpecialText::parsed, SpecialText::plain}) {
        const std::vector<std::int32_t> ids = tokenizer.encode(one, special);
        StreamingDecoder stream(tokenizer, true);
        std::string streamed;
        for (const std::int32_t id : ids) {
          fuzz::require(id >= 0 && id < end, "an id has no row");
          const std::string part = stream.push(id);
          fuzz::require(!find_invalid_utf8(part), "a part of the text is not UTF-8");
          streamed += part;
        }
        streamed += stream.finish();
        fuzz::require(streamed == to_utf8(tokenizer.decode(ids, true)), "id by id comes another text");
      }
    }
  } catch (const TokenizerError& error) {
    fuzz::refused(error);
  }
}

}  // namespace sparsegrad::finetune::test
