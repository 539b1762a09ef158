// Which keys a query attends to, and which probabilities are dropped: all in which the attention of encoders and decoders
// differs.
#pragma once

#include <cstdint>

#include "../dropout.hpp"
#include "attention_grid.cuh"

namespace sparsegrad::finetune::device {

/// Decoders: a token attends to those before it and to itself. Heads of the queries may share keys; nothing is dropped.
template <class C>
struct CausalPattern {
  static constexpr bool grouped = true;
  static constexpr bool later_see_more = true;
  static constexpr bool may_drop = false;

  /// How many keys, from the first one on, the query of this token sees.
  template <class T>
  SPARSEGRAD_HOST_DEVICE int seen_by(const AttentionSequence<T>& s, int token) const {
    return s.keys - s.queries + token + 1;
  }
  /// The first token whose query sees this key, of a sequence whose queries are all of its tokens.
  template <class T>
  SPARSEGRAD_HOST_DEVICE int first_to_see(const AttentionSequence<T>&, int key) const {
    return key;
  }
  SPARSEGRAD_HOST_DEVICE bool drops() const { return false; }
  SPARSEGRAD_HOST_DEVICE std::uint64_t row_key(index_t) const { return 0; }
  SPARSEGRAD_HOST_DEVICE C multiplier(std::uint64_t, int) const { return C(1); }
};

/// Encoders: a query sees all tokens of its sequence, but no padding; probabilities are multiplied by dropout's mask, whose
/// row is the query's place in [heads, tokens], as on the CPU.
template <class C>
struct BidirectionalPattern {
  static constexpr bool grouped = false;
  static constexpr bool later_see_more = false;
  static constexpr bool may_drop = true;

  Dropout<C> dropout;

  template <class T>
  SPARSEGRAD_HOST_DEVICE int seen_by(const AttentionSequence<T>& s, int) const {
    return s.keys;
  }
  template <class T>
  SPARSEGRAD_HOST_DEVICE int first_to_see(const AttentionSequence<T>& s, int key) const {
    return key < s.keys ? 0 : s.queries;
  }
  SPARSEGRAD_HOST_DEVICE bool drops() const { return dropout.on(); }
  /// The part of the mask's numbers that a row has in common.
  SPARSEGRAD_HOST_DEVICE std::uint64_t row_key(index_t row) const { return dropout.row(row).key; }
  SPARSEGRAD_HOST_DEVICE C multiplier(std::uint64_t row_key, int key) const {
    return Dropout<C>::multiplier(bits_at(row_key, static_cast<std::uint32_t>(key)), dropout.threshold,
                                  dropout.scale);
  }
};

}  // namespace sparsegrad::finetune::device
