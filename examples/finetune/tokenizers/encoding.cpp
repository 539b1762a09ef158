#include "tokenizers/encoding.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {

Encoding encode_in_frame(const Tokenizer& tokenizer, const Frame& frame, std::string_view a,
                         std::optional<std::string_view> b, std::size_t max_length) {
  const std::size_t special_tokens = b ? 2 + frame.between : 2;
  if (max_length < special_tokens) {
    throw TokenizerError("expected a max_length of at least " + std::to_string(special_tokens) +
                         ", the special tokens of " + (b ? "a pair" : "a sentence") + ", found " +
                         std::to_string(max_length));
  }
  const std::vector<std::int32_t> ids_a = tokenizer.tokenize_ids(a);
  const std::vector<std::int32_t> ids_b = b ? tokenizer.tokenize_ids(*b) : std::vector<std::int32_t>();
  const std::size_t room = max_length - special_tokens;
  const PairLengths kept = b ? truncate_longest_first(ids_a.size(), ids_b.size(), room)
                             : PairLengths{std::min(ids_a.size(), room), 0};
  Encoding out;
  out.special = special_tokens;
  out.ids.reserve(kept.a + kept.b + special_tokens);
  out.ids.push_back(frame.first);
  out.ids.insert(out.ids.end(), ids_a.begin(), ids_a.begin() + static_cast<std::ptrdiff_t>(kept.a));
  out.ids.insert(out.ids.end(), b ? frame.between : 1, frame.last);
  out.type_ids.assign(out.ids.size(), 0);
  if (b) {
    out.ids.insert(out.ids.end(), ids_b.begin(), ids_b.begin() + static_cast<std::ptrdiff_t>(kept.b));
    out.ids.push_back(frame.last);
    out.type_ids.resize(out.ids.size(), frame.second_type);
  }
  return out;
}

void require_utf8(std::string_view text) {
  if (!find_invalid_utf8(text)) return;
  try {
    decode_utf8(text);
  } catch (const std::runtime_error& error) {
    throw TokenizerError(error.what());
  }
}

}  // namespace sparsegrad::finetune
