// A data set as token ids.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/glue.hpp"
#include "data/padding.hpp"
#include "models/layers/batch.hpp"
#include "tokenizers/tokenizer.hpp"

namespace sparsegrad::finetune {

/// A vocabulary that fits leaves next to nothing unknown: bert-base-uncased's nothing of CoLA, SST-2, MRPC
/// and STS-B.
inline constexpr double high_unknown_share = 0.05;

/// All sequences of a split in one piece of memory each for ids and types.
class EncodedDataset {
 public:
  /// Encodes the first `limit` examples (0: all), each cut to `max_length` tokens. A model that knows one
  /// token type alone (`types`) gets type 0 for the second sentence of a pair too. Throws TokenizerError.
  EncodedDataset(const Dataset& data, const Tokenizer& tokenizer, index_t max_length, index_t limit = 0,
                 index_t types = 2);

  const std::string& name() const { return name_; }
  index_t size() const { return static_cast<index_t>(labels_.size()); }
  index_t tokens() const { return static_cast<index_t>(ids_.size()); }
  index_t longest() const { return longest_; }
  /// Sequences that reached max_length, and may have been cut.
  index_t at_limit() const { return at_limit_; }
  /// Tokens that are the unknown token, and their share of the tokens of text (those that are not the model's
  /// own around it).
  index_t unknown() const { return unknown_; }
  double unknown_share() const {
    return text_tokens_ > 0 ? static_cast<double>(unknown_) / static_cast<double>(text_tokens_) : 0;
  }
  /// What to tell people where more than `high_unknown_share` of the text is unknown; else empty.
  std::string unknown_warning() const;
  /// Pairs whose second sentence got type 0 because the model knows no other.
  index_t untyped() const { return untyped_; }
  /// Malformed rows of the data's files, which are not among its sequences.
  index_t skipped() const { return skipped_; }
  /// Rows without a label, which are not among its sequences either.
  index_t unlabelled() const { return unlabelled_; }
  /// Dataset::indices of its sequences.
  std::span<const std::string> indices() const { return indices_; }
  index_t length(index_t i) const { return offsets_[at(i) + 1] - offsets_[at(i)]; }
  float label(index_t i) const { return labels_[at(i)]; }
  std::span<const float> labels() const { return labels_; }
  /// The token ids and the token types of all sequences, one behind the other.
  std::span<const std::int32_t> ids() const { return ids_; }
  std::span<const std::int32_t> type_ids() const { return type_ids_; }

  /// Rows that example i takes in a batch.
  index_t rows(index_t i, Padding padding) const {
    return padding == Padding::max_length ? max_length_ : length(i);
  }
  /// Appends example i.
  void add_to(Batch& batch, index_t i, Padding padding) const;

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  std::string name_;
  std::int32_t pad_id_ = 0;
  index_t max_length_ = 0;
  index_t longest_ = 0;
  index_t at_limit_ = 0;
  index_t skipped_ = 0;
  index_t unknown_ = 0;
  index_t text_tokens_ = 0;
  index_t untyped_ = 0;
  index_t unlabelled_ = 0;
  std::vector<std::string> indices_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int32_t> type_ids_;
  std::vector<index_t> offsets_{0};
  std::vector<float> labels_;
};

}  // namespace sparsegrad::finetune
