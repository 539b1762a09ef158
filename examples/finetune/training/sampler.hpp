// The order in which examples are seen.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

/// Walks through the numbers 0 .. size - 1 in an order that depends on the seed and the epoch's number alone: the same
/// on every machine.
class Sampler {
 public:
  struct Position {
    index_t epoch = 0;
    index_t next = 0;  ///< in the epoch's order
    friend bool operator==(const Position&, const Position&) = default;
  };

  Sampler(index_t size, std::uint64_t seed, bool shuffle) : seed_(seed), shuffle_(shuffle) {
    order_.resize(static_cast<std::size_t>(size));
    arrange();
  }

  const Position& position() const { return position_; }
  void seek(const Position& position) {
    position_ = position;
    arrange();
  }
  index_t size() const { return static_cast<index_t>(order_.size()); }

  /// The next `count` numbers, fewer at the end of an epoch; never numbers of two epochs. Valid until the next call.
  std::span<const index_t> take(index_t count) {
    if (position_.next >= size()) {
      ++position_.epoch;
      position_.next = 0;
      arrange();
    }
    const index_t taken = std::min(count, size() - position_.next);
    const std::span<const index_t> part = std::span<const index_t>(order_).subspan(
        static_cast<std::size_t>(position_.next), static_cast<std::size_t>(taken));
    position_.next += taken;
    return part;
  }
  /// Whether the epoch's last number has been taken.
  bool at_epoch_end() const { return position_.next >= size(); }

 private:
  void arrange() {
    std::iota(order_.begin(), order_.end(), index_t{0});
    if (!shuffle_) return;
    const std::uint64_t key = stream_key(seed_, static_cast<std::uint64_t>(position_.epoch));
    for (std::size_t i = order_.size(); i > 1; --i) {
      // Fisher and Yates; the bias of the remainder is below 2^-40 for any data set.
      const std::size_t j = static_cast<std::size_t>(stream_key(key, i) % i);
      std::swap(order_[i - 1], order_[j]);
    }
  }

  std::uint64_t seed_;
  bool shuffle_;
  Position position_;
  std::vector<index_t> order_;
};

}  // namespace sparsegrad::finetune
