#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// The sequences of one forward pass, their tokens in one row each of the activations.
///
/// Unpadded, three sequences of 3, 2 and 4 tokens:
///     row       0 1 2 3 4 5 6 7 8
///     sequence  0 0 0 1 1 2 2 2 2      offsets {0, 3, 5, 9}, lengths {3, 2, 4}
/// Padded to 4 rows a sequence: offsets {0, 4, 8, 12}, the same lengths. Rows from offsets[s] + lengths[s] on
/// are padding: nobody attends to them, but they are computed like the others.
struct Batch {
  std::vector<std::int32_t> ids;           ///< a token
  std::vector<std::int32_t> type_ids;      ///< a token
  std::vector<std::int32_t> position_ids;  ///< a token
  std::vector<index_t> offsets{0};         ///< first row of each sequence, and the end
  std::vector<index_t> lengths;            ///< tokens of each sequence without padding
  std::vector<float> labels;               ///< class number or score of each sequence
  /// Of decoders, a token: what the row of this token is to predict, or -1 where nothing is counted. Else empty.
  std::vector<std::int32_t> targets;

  index_t tokens() const { return offsets.back(); }
  index_t sequences() const { return static_cast<index_t>(lengths.size()); }
  /// Rows of the longest sequence, padding included.
  index_t longest() const;
  /// Tokens without padding.
  index_t real_tokens() const;

  void clear();
  /// Keeps memory for later calls of `add`.
  void reserve(index_t max_tokens, index_t max_sequences);
  /// Appends a sequence with positions 0, 1, ... `padded_length` > 0 fills it up with `pad_id` (type 0) to that
  /// many rows. Empty `type_ids` mean zeros. Throws ModelError when the sequence is empty, longer than
  /// `padded_length`, or `type_ids` has another length.
  void add(std::span<const std::int32_t> token_ids, std::span<const std::int32_t> token_type_ids, float label,
           index_t padded_length = 0, std::int32_t pad_id = 0);
  /// Appends a decoder's sequence with positions 0, 1, ... and its targets, one a token (see `targets`); none given: a
  /// sequence without targets, as generation has it. Never padded. Throws ModelError when the sequence is empty or
  /// the targets are not as many as the tokens.
  void add_sequence(std::span<const std::int32_t> token_ids,
                    std::span<const std::int32_t> token_targets = {});
};

}  // namespace sparsegrad::finetune
