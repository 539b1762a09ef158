#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <sparsegrad/core/buffer.hpp>

#include "batch.hpp"

namespace sparsegrad::finetune {

/// A backend that launches kernels: the GPU's, or Thrust's host system in the tests. The others compute in the host's
/// memory.
template <class Backend>
concept ThrustBackend = requires {
  typename Backend::System;
};

/// Numbers of the host's, which may be gone afterwards, to the backend's memory: without a wait where it can.
template <class Backend, class T>
void send(typename Backend::Context& ctx, const T* from, T* to, index_t n) {
  if constexpr (requires { Backend::template stage<T>(ctx, from, to, n); }) {
    Backend::template stage<T>(ctx, from, to, n);
  } else {
    Backend::template upload<T>(ctx, from, to, n);
  }
}

/// Rows of a decoder's batch of which logits are made, in rising order, and what they are to predict (empty: nothing).
struct CountedRows {
  std::span<const std::int32_t> rows;
  std::span<const std::int32_t> targets;
};

/// A batch where the kernels can read it: on the host the batch itself, which must live on with the rows counted.
template <class Backend>
class PlacedBatch {
 public:
  using Context = typename Backend::Context;

  void reserve(Context&, index_t, index_t) {}
  void place(Context&, const Batch& batch, bool, const CountedRows& counted = {}) {
    batch_ = &batch;
    counted_ = counted;
  }
  const Batch& batch() const { return *batch_; }
  const CountedRows& counted() const { return counted_; }

 private:
  const Batch* batch_ = nullptr;
  CountedRows counted_;
};

/// The tokens of a batch by the row of a table that each one took: what summing their gradients in a fixed order, and
/// without atomics, needs. Groups are cut into pieces of at most `piece` tokens, so that a row that many tokens share
/// is no task of one thread.
///     tokens of piece p     order[piece_begin[p]] .. order[piece_begin[p + 1] - 1], rising
///     pieces of group u     group_begin[u] .. group_begin[u + 1] - 1
///     row of group u        row[u]
struct RowGroups {
  static constexpr index_t piece = 32;

  const std::int32_t* order = nullptr;
  const std::int32_t* piece_begin = nullptr;
  const std::int32_t* group_begin = nullptr;
  const std::int32_t* row = nullptr;
  index_t pieces = 0;
  index_t groups = 0;
};

/// Arrays of a batch in the backend's memory.
struct BatchArrays {
  const std::int32_t* ids = nullptr;
  const std::int32_t* positions = nullptr;
  const std::int32_t* types = nullptr;
  const std::int32_t* offsets = nullptr;  ///< [sequences + 1]
  const std::int32_t* lengths = nullptr;
  const std::int32_t* rows = nullptr;     ///< CountedRows
  const std::int32_t* targets = nullptr;  ///< CountedRows
  index_t tokens = 0;
  index_t sequences = 0;
  index_t longest = 0;
  RowGroups by_id, by_position, by_type;  ///< where gradients of the tables are wanted
};

template <class Backend>
requires ThrustBackend<Backend>
class PlacedBatch<Backend> {
 public:
  using Context = typename Backend::Context;

  void reserve(Context& ctx, index_t tokens, index_t sequences) {
    const index_t wanted = count(tokens, sequences);
    staging_.reserve(static_cast<std::size_t>(wanted));
    offsets_.reserve(static_cast<std::size_t>(sequences) + 1);
    if (wanted > memory_.size()) memory_.resize(ctx, wanted);
  }

  /// One copy to the backend; `with_groups`: with those that gradients of the embeddings need.
  void place(Context& ctx, const Batch& batch, bool with_groups, const CountedRows& counted = {}) {
    reserve(ctx, batch.tokens(), batch.sequences());
    staging_.clear();
    offsets_ = batch.offsets;
    arrays_ = {};
    arrays_.tokens = batch.tokens();
    arrays_.sequences = batch.sequences();
    arrays_.longest = batch.longest();
    arrays_.ids = put(batch.ids);
    arrays_.positions = put(batch.position_ids);
    arrays_.types = put(batch.type_ids);
    arrays_.offsets = put(batch.offsets);
    arrays_.lengths = put(batch.lengths);
    arrays_.rows = put(counted.rows);
    arrays_.targets = put(counted.targets);
    if (with_groups) {
      arrays_.by_id = put_groups(batch.ids);
      arrays_.by_position = put_groups(batch.position_ids);
      arrays_.by_type = put_groups(batch.type_ids);
    }
    send<Backend, std::int32_t>(ctx, staging_.data(), memory_.data(), static_cast<index_t>(staging_.size()));
  }
  const BatchArrays& arrays() const { return arrays_; }
  /// The first row of a sequence and how many it has, on the host.
  std::pair<index_t, index_t> rows_of(index_t sequence) const {
    const auto s = static_cast<std::size_t>(sequence);
    return {offsets_[s], offsets_[s + 1] - offsets_[s]};
  }

 private:
  static index_t count(index_t tokens, index_t sequences) {
    return 5 * tokens + 2 * sequences + 1 + 3 * (4 * tokens + 2);
  }

  /// Where the next number will stand.
  const std::int32_t* end() const { return memory_.data() + staging_.size(); }

  template <class Values>
  const std::int32_t* put(const Values& values) {
    const std::int32_t* at = end();
    for (const auto value : values)
      staging_.push_back(static_cast<std::int32_t>(value));
    return at;
  }

  RowGroups put_groups(const std::vector<std::int32_t>& rows) {
    sorted_.resize(rows.size());
    std::iota(sorted_.begin(), sorted_.end(), 0);
    std::stable_sort(sorted_.begin(), sorted_.end(), [&](std::int32_t a, std::int32_t b) {
      return rows[static_cast<std::size_t>(a)] < rows[static_cast<std::size_t>(b)];
    });
    piece_begin_.clear();
    group_begin_.clear();
    row_.clear();
    for (std::size_t i = 0; i < sorted_.size(); ++i) {
      const std::int32_t row = rows[static_cast<std::size_t>(sorted_[i])];
      const bool new_group = row_.empty() || row_.back() != row;
      if (new_group) {
        group_begin_.push_back(static_cast<std::int32_t>(piece_begin_.size()));
        row_.push_back(row);
      }
      if (new_group || static_cast<index_t>(i) - piece_begin_.back() == RowGroups::piece)
        piece_begin_.push_back(static_cast<std::int32_t>(i));
    }
    RowGroups groups;
    groups.pieces = static_cast<index_t>(piece_begin_.size());
    groups.groups = static_cast<index_t>(row_.size());
    piece_begin_.push_back(static_cast<std::int32_t>(sorted_.size()));
    group_begin_.push_back(static_cast<std::int32_t>(groups.pieces));
    groups.order = put(sorted_);
    groups.piece_begin = put(piece_begin_);
    groups.group_begin = put(group_begin_);
    groups.row = put(row_);
    return groups;
  }

  Buffer<std::int32_t, Backend> memory_;
  std::vector<std::int32_t> staging_, sorted_, piece_begin_, group_begin_, row_;
  std::vector<index_t> offsets_;
  BatchArrays arrays_;
};

}  // namespace sparsegrad::finetune
