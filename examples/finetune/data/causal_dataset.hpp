// Conversations as token ids, with what of them a causal language model is to predict.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/chat_template.hpp"
#include "models/layers/batch.hpp"

namespace sparsegrad::finetune {

/// The ids of a text, in which special tokens are spelt out; nothing is put around it.
using TextEncoder = std::function<std::vector<std::int32_t>(std::string_view text)>;

/// Examples of a causal language model, in one piece of memory. The loss counts the tokens of answers alone, and the
/// token that ends each: row r's target is the token behind it where that is one of these, else -1.
///
///     ids       <|im_start|> user \n Q <|im_end|> \n <|im_start|> assistant \n A  .
///     targets       -1        -1  -1 -1    -1     -1       -1        -1     A .  <|im_end|>
///
/// Rows behind the last one that is counted are left out: nothing depends on them.
class CausalDataset {
 public:
  /// Encodes the conversations, question and answer by themselves, so that an answer's first token is the one that
  /// generation would have to find. Of an example of more than `max_length` rows the end is cut; one that has nothing to
  /// predict then is left out. Both are counted.
  CausalDataset(std::string name, std::span<const Conversation> conversations, const ChatTemplate& chat,
                const TextEncoder& encode, index_t max_length);

  const std::string& name() const { return name_; }
  index_t size() const { return static_cast<index_t>(counted_.size()); }
  /// Rows of all examples.
  index_t tokens() const { return static_cast<index_t>(ids_.size()); }
  /// Targets of all examples.
  index_t counted() const { return all_counted_; }
  index_t longest() const { return longest_; }
  /// Examples whose end was cut, and those of which nothing was left.
  index_t cut() const { return cut_; }
  index_t left_out() const { return left_out_; }
  /// Tokens, answers included, of the longest conversation before it was cut.
  index_t longest_uncut() const { return longest_uncut_; }

  /// Rows of example i, and its targets.
  index_t length(index_t i) const { return offsets_[at(i) + 1] - offsets_[at(i)]; }
  index_t counted(index_t i) const { return counted_[at(i)]; }
  std::span<const std::int32_t> ids() const { return ids_; }
  std::span<const std::int32_t> targets() const { return targets_; }
  std::span<const std::int32_t> ids(index_t i) const { return part(ids_, i); }
  std::span<const std::int32_t> targets(index_t i) const { return part(targets_, i); }

  /// Appends example i.
  void add_to(Batch& batch, index_t i) const { batch.add_sequence(ids(i), targets(i)); }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  std::span<const std::int32_t> part(const std::vector<std::int32_t>& all, index_t i) const {
    return std::span(all).subspan(at(offsets_[at(i)]), at(length(i)));
  }

  std::string name_;
  index_t longest_ = 0;
  index_t longest_uncut_ = 0;
  index_t cut_ = 0;
  index_t left_out_ = 0;
  index_t all_counted_ = 0;
  std::vector<std::int32_t> ids_;
  std::vector<std::int32_t> targets_;
  std::vector<index_t> offsets_{0};
  std::vector<index_t> counted_;
};

/// Takes a share of the conversations out: which, a seed decides, the same on every machine. Their order stays. Throws
/// DataError when one of the two parts is empty.
std::vector<Conversation> hold_out(std::vector<Conversation>& conversations, double share,
                                   std::uint64_t seed);

}  // namespace sparsegrad::finetune
