// Where the blocks of attention's kernels work.
#pragma once

#include <cstdint>

#include "../attention_shape.hpp"
#include "../causal_shape.hpp"
#include "../placed_batch.hpp"
#include "kernels.cuh"

namespace sparsegrad::finetune::device {

/// The columns of a token's row: [queries of all heads | keys | values].
struct HeadLayout {
  index_t kv_heads;  ///< heads of the keys and values
  index_t group;     ///< heads of the queries that share one of them
  index_t head_size;

  HeadLayout(const AttentionShape& shape)  // NOLINT(google-explicit-constructor)
      : kv_heads(shape.heads), group(1), head_size(shape.head_size) {}
  HeadLayout(const CausalShape& shape)  // NOLINT(google-explicit-constructor)
      : kv_heads(shape.kv_heads), group(shape.group()), head_size(shape.head_size) {}

  index_t q_cols() const { return kv_heads * group * head_size; }
  index_t kv_cols() const { return kv_heads * head_size; }
};

/// Queries of one sequence, and where its keys and values are: row j of them at k + j stride, all heads side by side.
/// Numbers within a sequence are below 2^31.
template <class T>
struct AttentionSequence {
  index_t first = 0;  ///< row of its first query
  int queries = 0;    ///< rows, padding included
  int keys = 0;       ///< without padding; those of tokens before the first query included
  const T* k = nullptr;
  const T* v = nullptr;
  index_t stride = 0;
};

/// Gives each block a piece of one sequence and one head of the keys.
template <class T>
struct AttentionGrid {
  index_t head_size, q_cols, kv_cols;
  index_t tokens;  ///< rows of the whole batch
  std::uint32_t kv_heads, group, sequences, pieces;
  bool last_first;              ///< whether later pieces, which have more to do, come first
  const std::int32_t* offsets;  ///< of a batch whose keys are in the queries' rows; null: `one`
  const std::int32_t* lengths;
  AttentionSequence<T> one;
  Array2<const T> qkv;

  /// All sequences of a batch; `longest`: rows of the longest, of which a block takes `own`.
  static AttentionGrid of_batch(const HeadLayout& heads, const BatchArrays& batch, MatrixView<const T> qkv,
                                index_t longest, index_t own, bool last_first) {
    return {heads.head_size,
            heads.q_cols(),
            heads.kv_cols(),
            batch.tokens,
            static_cast<std::uint32_t>(heads.kv_heads),
            static_cast<std::uint32_t>(heads.group),
            static_cast<std::uint32_t>(batch.sequences),
            static_cast<std::uint32_t>((longest + own - 1) / own),
            last_first,
            batch.offsets,
            batch.lengths,
            {},
            qkv};
  }
  /// One sequence, whose keys and values may be elsewhere.
  static AttentionGrid of_sequence(const HeadLayout& heads, const AttentionSequence<T>& one,
                                   MatrixView<const T> qkv, index_t own) {
    BatchArrays batch;
    batch.tokens = qkv.rows;
    batch.sequences = 1;
    AttentionGrid grid = of_batch(heads, batch, qkv, one.queries * heads.group, own, true);
    grid.one = one;
    return grid;
  }
  index_t blocks() const { return static_cast<index_t>(sequences) * kv_heads * pieces; }

  struct Place {
    AttentionSequence<T> sequence;  ///< its keys and values are those of the block's head
    index_t head;                   ///< of the keys
    int piece;
  };
  SPARSEGRAD_HOST_DEVICE Place place(index_t block) const {
    const auto number = static_cast<std::uint32_t>(block);
    const std::uint32_t side_by_side = sequences * kv_heads;
    const std::uint32_t order = number / side_by_side;
    const std::uint32_t task = number % side_by_side;
    Place place;
    place.piece = static_cast<int>(last_first ? pieces - 1 - order : order);
    place.head = task / sequences;
    place.sequence = offsets == nullptr ? one : sequence(task % sequences);
    place.sequence.k += place.head * head_size;
    place.sequence.v += place.head * head_size;
    return place;
  }

 private:
  SPARSEGRAD_HOST_DEVICE AttentionSequence<T> sequence(index_t number) const {
    AttentionSequence<T> s;
    s.first = offsets[number];
    s.queries = offsets[number + 1] - offsets[number];
    s.keys = lengths[number];
    s.k = &qkv(s.first, q_cols);
    s.v = s.k + kv_cols;
    s.stride = qkv.stride;
    return s;
  }
};

}  // namespace sparsegrad::finetune::device
