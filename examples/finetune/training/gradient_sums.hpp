// GradientSums: a step's gradients, summed over the processes that share it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <span>
#include <string_view>

#include <sparsegrad/extras/gradient_buckets.hpp>

namespace sparsegrad::finetune {

/// Sums gradients over processes while the backward pass goes on, in place. All processes start gradients of the same
/// sizes in the same order.
///
/// What is on its way is copied, in pieces; where that comes to more than `most` numbers, `start` waits for the first of
/// them, so that large gradients take a bounded room.
class GradientSums {
 public:
  static constexpr std::size_t piece = std::size_t{1} << 20;
  static constexpr std::size_t most = 16 * piece;

  GradientSums(Communicator& processes, WireType wire, SumOrder order)
      : buckets_(processes, {.wire = wire, .order = order}) {}

  /// Starts the sum of a gradient, which is not to be looked at until `finish`.
  void start(std::span<float> gradient) {
    for (std::size_t at = 0; at < gradient.size(); at += piece) {
      const std::span<float> part = gradient.subspan(at, std::min(piece, gradient.size() - at));
      sums_.push_back({buckets_.start(std::span<const float>(part)), part});
      on_their_way_ += part.size();
      while (on_their_way_ > most)
        wait_for_first();
    }
  }
  /// Sends what has been started and is still held back for want of company.
  void flush() { buckets_.flush(); }
  /// Makes all gradients that were started the sums over the processes.
  void finish() {
    while (!sums_.empty())
      wait_for_first();
  }

 private:
  struct Sum {
    GradientBuckets<float>::Slot slot;
    std::span<float> part;
  };

  void wait_for_first() {
    const Sum& sum = sums_.front();
    buckets_.wait(sum.slot, sum.part);
    on_their_way_ -= sum.part.size();
    sums_.pop_front();
  }

  GradientBuckets<float> buckets_;
  std::deque<Sum> sums_;
  std::size_t on_their_way_ = 0;
};

/// The number of the layer that a parameter belongs to, by its name; -1: to none.
inline index_t layer_of(std::string_view name) {
  for (const std::string_view before : {".layer.", ".layers."}) {
    const std::size_t found = name.find(before);
    if (found == std::string_view::npos) continue;
    index_t layer = 0;
    const std::string_view rest = name.substr(found + before.size());
    for (std::size_t i = 0; i < rest.size() && rest[i] >= '0' && rest[i] <= '9'; ++i)
      layer = 10 * layer + (rest[i] - '0');
    return layer;
  }
  return -1;
}

}  // namespace sparsegrad::finetune
