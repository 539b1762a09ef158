// GradientBuckets: gradients of many layers, fused into a few messages that leave as they come.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/config.hpp"
#include "../core/error.hpp"
#include "../core/low_precision.hpp"
#include "communicator.hpp"
#include "open_tickets.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// How numbers are sent.
enum class WireType {
  same,      ///< as they are
  float32,   ///< rounded to float, where they are double
  bfloat16,  ///< rounded to 16 bits: half of float's bytes, a relative error of 2^-8 in each part
};

/// Options of GradientBuckets.
struct BucketOptions {
  /// A bucket leaves when it holds so many bytes: large enough that a message's fixed cost does not
  /// matter, small enough that the first leaves early.
  index_t bucket_bytes = index_t{4} << 20;
  WireType wire = WireType::same;   ///< how the numbers are sent
  SumOrder order = SumOrder::rank;  ///< how they are added
};

/// Sums gradients in host memory over the ranks of a communicator, several in one message.
///
/// The first gradient of the backward pass that is finished is started first, and so on; a bucket that
/// is full leaves at once, while the pass goes on. Every rank starts gradients of the same sizes in
/// the same order, and waits for them in the same order.
///
///     GradientBuckets<float> buckets(comm);
///     const auto up = buckets.start(std::span<const float>(numbers));
///     // ... the backward of other layers ...
///     buckets.wait(up, std::span(numbers));     // the sum over ranks
///
/// (Buckets as in Li et al., "PyTorch Distributed: experiences on accelerating data parallel
/// training", VLDB 2020.) Memory: that of the gradients in flight, kept for those that follow.
template <class C>
class GradientBuckets {
  static_assert(is_compute_type<C>, "C, the type of the gradients, must be float or double");

 public:
  /// A gradient that was started.
  struct Slot {
    std::size_t bucket = 0;   ///< the message that has it
    std::size_t first = 0;    ///< its first number there
    std::size_t count = 0;    ///< its numbers
    std::int64_t ticket = 0;  ///< which gradient it is, from 1
  };

  /// Throws ValueError unless bucket_bytes > 0.
  explicit GradientBuckets(Communicator& comm, BucketOptions options = {}) : comm_(&comm), options_(options) {
    if (options.bucket_bytes <= 0) {
      throw ValueError("bucket_bytes is " + std::to_string(options.bucket_bytes) + ", expected > 0");
    }
    if (std::is_same_v<C, float> && options_.wire == WireType::float32) options_.wire = WireType::same;
  }
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;
  ~GradientBuckets() { abandon(); }

  /// The communicator.
  Communicator& communicator() const { return *comm_; }
  /// The options that it was made with.
  const BucketOptions& options() const { return options_; }
  /// Gradients that were started and not awaited.
  std::size_t in_flight() const { return tickets_.count(); }

  /// Starts the sum of a gradient, which is copied.
  Slot start(std::span<const C> gradient) {
    return start(gradient.size(), [&](C* to) { std::copy(gradient.begin(), gradient.end(), to); });
  }
  /// The same for `count` numbers that `write(C* to)` writes.
  template <class F>
  Slot start(std::size_t count, F&& write) {
    if (in_flight() == 0) sent_ = 0;
    if (open_ == none) open_bucket();
    Bucket& bucket = buckets_[open_];
    Slot slot{open_, bucket.numbers.size(), count, 0};
    bucket.numbers.resize(slot.first + count);
    write(bucket.numbers.data() + slot.first);
    ++bucket.unread;
    slot.ticket = tickets_.open();
    const auto bytes = static_cast<index_t>(bucket.numbers.size() * element_bytes());
    if (bytes >= options_.bucket_bytes) {
      flush();
    } else {
      comm_->poll();
    }
    return slot;
  }
  /// Sends what has been started, also where the bucket is not full.
  void flush() {
    if (open_ == none) return;
    Bucket& bucket = buckets_[open_];
    const std::string what = "bucket " + std::to_string(sent_++) + " of gradients";
    bucket.state = Bucket::State::sent;
    open_ = none;
    switch (options_.wire) {
      case WireType::same:
        bucket.ticket = comm_->start_sum(std::span(bucket.numbers), options_.order, what);
        break;
      case WireType::float32:
        convert(bucket, bucket.floats, what);
        break;
      case WireType::bfloat16:
        convert(bucket, bucket.halves, what);
        break;
    }
  }

  /// Writes the sum over ranks to `sum`, once for each gradient. Throws ValueError for another number
  /// of elements, StateError for a gradient that was awaited already, given up, or never started.
  void wait(const Slot& slot, std::span<C> sum) {
    if (sum.size() != slot.count) {
      throw ValueError("the sum has " + std::to_string(sum.size()) + " elements, expected " +
                       std::to_string(slot.count) + ", as were started");
    }
    wait(slot, [&](const C* from) { std::copy(from, from + slot.count, sum.begin()); });
  }
  /// The same where `read(const C* from)` reads it.
  template <class F>
  requires std::is_invocable_v<F, const C*>
  void wait(const Slot& slot, F&& read) {
    tickets_.close(slot.ticket, "gradient");
    if (slot.bucket == open_) flush();
    Bucket& bucket = buckets_[slot.bucket];
    if (bucket.state == Bucket::State::sent) {
      comm_->wait(bucket.ticket);
      bucket.state = Bucket::State::summed;
      if (options_.wire == WireType::float32)
        std::copy(bucket.floats.begin(), bucket.floats.end(), bucket.numbers.begin());
      if (options_.wire == WireType::bfloat16)
        std::transform(bucket.halves.begin(), bucket.halves.end(), bucket.numbers.begin(),
                       [](bfloat16 x) { return static_cast<C>(static_cast<float>(x)); });
    }
    read(static_cast<const C*>(bucket.numbers.data() + slot.first));
    if (--bucket.unread == 0) bucket.state = Bucket::State::unused;
  }

  /// Forgets what was started, after an error of one's own: what is in flight is awaited and dropped.
  /// All ranks must do so.
  void abandon() noexcept {
    for (Bucket& bucket : buckets_) {
      try {
        if (bucket.state == Bucket::State::sent) comm_->wait(bucket.ticket);
      } catch (...) {  // the communicator is of no use, and says so at its next call
      }
      bucket.state = Bucket::State::unused;
      bucket.unread = 0;
    }
    open_ = none;
    tickets_.clear();
  }

 private:
  struct Bucket {
    enum class State { unused, filling, sent, summed };
    State state = State::unused;
    std::size_t unread = 0;  ///< gradients in it that were not awaited
    Communicator::Ticket ticket = 0;
    std::vector<C> numbers;
    std::vector<float> floats;     ///< on the wire as float
    std::vector<bfloat16> halves;  ///< on the wire as bfloat16
  };

  static constexpr auto none = static_cast<std::size_t>(-1);

  void open_bucket() {
    const auto unused = [](const Bucket& bucket) { return bucket.state == Bucket::State::unused; };
    const auto found = std::find_if(buckets_.begin(), buckets_.end(), unused);
    open_ = static_cast<std::size_t>(found - buckets_.begin());
    if (found == buckets_.end()) buckets_.emplace_back();
    buckets_[open_].numbers.clear();
    buckets_[open_].state = Bucket::State::filling;
  }
  std::size_t element_bytes() const {
    if (options_.wire == WireType::bfloat16) return sizeof(bfloat16);
    return options_.wire == WireType::float32 ? sizeof(float) : sizeof(C);
  }
  template <class N>
  void convert(Bucket& bucket, std::vector<N>& wire, const std::string& what) {
    wire.resize(bucket.numbers.size());
    std::transform(bucket.numbers.begin(), bucket.numbers.end(), wire.begin(),
                   [](C x) { return N(static_cast<float>(x)); });
    bucket.ticket = comm_->start_sum(std::span(wire), options_.order, what);
  }

  Communicator* comm_;
  BucketOptions options_;
  std::deque<Bucket> buckets_;  ///< that does not move what is in flight
  std::size_t open_ = none;     ///< the bucket that is being filled
  std::size_t sent_ = 0;  ///< buckets that have left since none was in flight: their numbers in messages
  detail::OpenTickets tickets_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
