#include "data/encoded_dataset.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace sparsegrad::finetune {

std::string_view to_string(Padding padding) {
  return padding == Padding::unpadded ? "unpadded" : "max_length";
}

EncodedDataset::EncodedDataset(const Dataset& data, const Tokenizer& tokenizer, index_t max_length,
                               index_t limit, index_t types)
    : name_(data.name),
      pad_id_(tokenizer.pad_id()),
      max_length_(max_length),
      skipped_(static_cast<index_t>(data.skipped)),
      unlabelled_(static_cast<index_t>(data.unlabelled)),
      indices_(data.indices) {
  const auto available = static_cast<index_t>(data.examples.size());
  const index_t count = limit > 0 ? std::min(limit, available) : available;
  if (!indices_.empty()) indices_.resize(at(count));
  labels_.reserve(at(count));
  offsets_.reserve(at(count) + 1);
  for (index_t i = 0; i < count; ++i) {
    const Example& example = data.examples[at(i)];
    const std::optional<std::string_view> second =
        example.b ? std::optional<std::string_view>(*example.b) : std::nullopt;
    const Encoding encoding = tokenizer.encode(example.a, second, static_cast<std::size_t>(max_length));
    ids_.insert(ids_.end(), encoding.ids.begin(), encoding.ids.end());
    if (types > 1) {
      type_ids_.insert(type_ids_.end(), encoding.type_ids.begin(), encoding.type_ids.end());
    } else {
      type_ids_.resize(ids_.size(), 0);
      untyped_ += std::any_of(encoding.type_ids.begin(), encoding.type_ids.end(),
                              [](std::int32_t type) { return type != 0; });
    }
    unknown_ += std::count(encoding.ids.begin(), encoding.ids.end(), tokenizer.unk_id());
    text_tokens_ += static_cast<index_t>(encoding.ids.size() - encoding.special);
    offsets_.push_back(static_cast<index_t>(ids_.size()));
    labels_.push_back(example.label);
    longest_ = std::max(longest_, length(i));
    at_limit_ += length(i) == max_length ? 1 : 0;
  }
  ids_.shrink_to_fit();
  type_ids_.shrink_to_fit();
}

std::string EncodedDataset::unknown_warning() const {
  if (unknown_share() <= high_unknown_share) return "";
  return fmt::format(
      "{}: {:.1f} % of the text is the unknown token ({} of {} tokens): the vocabulary does not fit the "
      "data. Are "
      "the tokenizer's files those of the model, is the data in the model's language, and does "
      "\"do_lower_case\" "
      "of tokenizer_config.json (false for a cased vocabulary) fit the vocabulary?",
      name_, 100 * unknown_share(), unknown_, text_tokens_);
}

void EncodedDataset::add_to(Batch& batch, index_t i, Padding padding) const {
  const auto first = static_cast<std::size_t>(offsets_[at(i)]);
  const auto count = static_cast<std::size_t>(length(i));
  batch.add(std::span(ids_).subspan(first, count), std::span(type_ids_).subspan(first, count), label(i),
            padding == Padding::max_length ? max_length_ : 0, pad_id_);
}

}  // namespace sparsegrad::finetune
