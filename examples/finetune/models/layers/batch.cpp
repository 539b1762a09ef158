#include "batch.hpp"

#include <algorithm>
#include <string>

#include "models/model_error.hpp"

namespace sparsegrad::finetune {

index_t Batch::longest() const {
  index_t longest = 0;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    longest = std::max(longest, offsets[s + 1] - offsets[s]);
  return longest;
}

index_t Batch::real_tokens() const {
  index_t sum = 0;
  for (const index_t length : lengths)
    sum += length;
  return sum;
}

void Batch::clear() {
  ids.clear();
  type_ids.clear();
  position_ids.clear();
  offsets.assign(1, 0);
  lengths.clear();
  labels.clear();
  targets.clear();
}

void Batch::reserve(index_t max_tokens, index_t max_sequences) {
  const auto tokens_wanted = static_cast<std::size_t>(max_tokens);
  const auto sequences_wanted = static_cast<std::size_t>(max_sequences);
  ids.reserve(tokens_wanted);
  type_ids.reserve(tokens_wanted);
  position_ids.reserve(tokens_wanted);
  offsets.reserve(sequences_wanted + 1);
  lengths.reserve(sequences_wanted);
  labels.reserve(sequences_wanted);
  targets.reserve(tokens_wanted);
}

void Batch::add(std::span<const std::int32_t> token_ids, std::span<const std::int32_t> token_type_ids,
                float label, index_t padded_length, std::int32_t pad_id) {
  const auto length = static_cast<index_t>(token_ids.size());
  if (length == 0) throw ModelError("batch: a sequence has no tokens");
  if (!token_type_ids.empty() && token_type_ids.size() != token_ids.size()) {
    throw ModelError("batch: " + std::to_string(token_type_ids.size()) + " type ids for " +
                     std::to_string(length) + " tokens");
  }
  if (padded_length > 0 && length > padded_length) {
    throw ModelError("batch: a sequence of " + std::to_string(length) + " tokens does not fit into " +
                     std::to_string(padded_length));
  }
  const index_t rows = std::max(length, padded_length);
  for (index_t i = 0; i < rows; ++i) {
    const auto t = static_cast<std::size_t>(i);
    ids.push_back(i < length ? token_ids[t] : pad_id);
    type_ids.push_back(i < length && !token_type_ids.empty() ? token_type_ids[t] : 0);
    position_ids.push_back(static_cast<std::int32_t>(i));
  }
  offsets.push_back(offsets.back() + rows);
  lengths.push_back(length);
  labels.push_back(label);
}

void Batch::add_sequence(std::span<const std::int32_t> token_ids,
                         std::span<const std::int32_t> token_targets) {
  if (!token_targets.empty() && token_targets.size() != token_ids.size()) {
    throw ModelError("batch: " + std::to_string(token_targets.size()) + " targets for " +
                     std::to_string(token_ids.size()) + " tokens");
  }
  add(token_ids, {}, 0);
  if (token_targets.empty()) {
    targets.insert(targets.end(), token_ids.size(), -1);
  } else {
    targets.insert(targets.end(), token_targets.begin(), token_targets.end());
  }
}

}  // namespace sparsegrad::finetune
