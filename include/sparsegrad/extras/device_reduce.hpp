// DeviceReducer: a group's gradients summed over devices, in the devices' memory and without the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../core/buffer.hpp"
#include "../core/error.hpp"
#include "../core/low_precision.hpp"
#include "../gradient_reducer.hpp"
#include "bucket_reduce.hpp"
#include "gradient_buckets.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of a DeviceReducer. The order of a sum is the engine's.
struct DeviceReduceOptions {
  index_t bucket_bytes = index_t{16} << 20;    ///< as BucketOptions; a gradient that is larger goes alone
  WireType wire = WireType::same;              ///< how gradients are sent: same, or bfloat16 of float
  Collected collected = Collected::gradients;  ///< while bases are collected
  bool check = false;                          ///< compares the selected entries, as ReduceOptions::check
};

/// Sums a group's gradients over devices by an engine such as NCCL, on a stream of its own beside the
/// context's. NcclReducer (extras/nccl_reduce.cuh) is this class over NCCL.
///
/// A gradient is copied to a bucket on the context's stream; a full bucket's sum begins on the
/// engine's stream as soon as that copy is there; `wait` makes the context's stream wait, not the
/// host. So the backward pass goes on beside the sums.
///
/// `Api` is the engine: static functions of these names, with its types Comm, Stream and Event.
///
///     rank(comm), size(comm)                 of this process
///     make_event(), destroy(event)
///     follow(stream, event, ctx)             the stream's next work waits for the context's so far
///     sum(comm, stream, p, n)                n floats, doubles or bfloat16 at p become their sums
///     most(comm, stream, p, n)               n std::uint64_t become the largest over ranks
///     record(event, stream)                  the event is the stream's work so far
///     wait(ctx, event)                       the context's next work waits for the event
///
/// They throw CommunicationError; so does `poll(comm)`, for errors that came later. What they throw is
/// given the rank and the call here.
template <class C, Backend B, class Api>
class DeviceReducer final : public GradientReducer<C, B> {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The engine's communicator.
  using Comm = typename Api::Comm;
  /// The engine's stream.
  using Stream = typename Api::Stream;

  /// Communicator and stream are the caller's and live as long. Throws ValueError for options out of
  /// range, or bfloat16 with double.
  DeviceReducer(Comm comm, Stream stream, DeviceReduceOptions options = {})
      : comm_(comm), stream_(stream), options_(options), copied_(Api::make_event()) {
    if (options.bucket_bytes <= 0)
      throw ValueError("bucket_bytes is " + std::to_string(options.bucket_bytes) + ", expected > 0");
    if (options.wire == WireType::float32 || (options.wire == WireType::bfloat16 && !rounds))
      throw ValueError(
          "the wire type is another than the gradients', expected bfloat16 of float, or the same");
  }
  DeviceReducer(const DeviceReducer&) = delete;
  DeviceReducer& operator=(const DeviceReducer&) = delete;
  ~DeviceReducer() override {
    for (const auto& bucket : buckets_)
      Api::destroy(bucket->summed);
    Api::destroy(copied_);
  }

  void start(Context& ctx, index_t layer, MatrixView<C> g) override {
    if (in_flight_ == 0) used_ = open_ = 0;
    const index_t element = static_cast<index_t>(halves() ? sizeof(bfloat16) : sizeof(C));
    const index_t room = (std::max)(g.size(), options_.bucket_bytes / element);
    if (used_ > open_ && buckets_[open_]->count + g.size() > size_of(*buckets_[open_])) flush(ctx);
    if (used_ == open_) {
      if (buckets_.size() == used_) {
        buckets_.push_back(std::make_unique<Bucket>());
        buckets_.back()->summed = Api::make_event();
      }
      Bucket& next = *buckets_[used_++];
      next.count = 0;
      if (size_of(next) < room) halves() ? next.halves.resize(ctx, room) : next.numbers.resize(ctx, room);
    }
    Bucket& bucket = *buckets_[open_];
    if (slots_.size() <= static_cast<std::size_t>(layer)) slots_.resize(static_cast<std::size_t>(layer) + 1);
    slots_[static_cast<std::size_t>(layer)] = {open_, bucket.count};
    const MatrixView<const C> from(g.data, 1, g.size());
    if constexpr (rounds) {
      if (halves())
        B::template round_to<bfloat16>(
            ctx, from, MatrixView<bfloat16>(bucket.halves.data() + bucket.count, 1, g.size()));
    }
    if (!halves())
      B::template copy<C>(ctx, from, MatrixView<C>(bucket.numbers.data() + bucket.count, 1, g.size()));
    bucket.count += g.size();
    ++in_flight_;
    if (bucket.count * element >= options_.bucket_bytes) flush(ctx);
  }

  void wait(Context& ctx, index_t layer, MatrixView<C> g) override {
    const Slot slot = slots_[static_cast<std::size_t>(layer)];
    if (slot.bucket == open_) flush(ctx);
    Bucket& bucket = *buckets_[slot.bucket];
    named(slot.bucket, [&] {
      Api::poll(comm_);
      Api::wait(ctx, bucket.summed);
    });
    const MatrixView<C> to(g.data, 1, g.size());
    if constexpr (rounds) {
      if (halves())
        B::template widen<bfloat16>(
            ctx, MatrixView<const bfloat16>(bucket.halves.data() + slot.first, 1, g.size()), to);
    }
    if (!halves())
      B::template copy<C>(ctx, MatrixView<const C>(bucket.numbers.data() + slot.first, 1, g.size()), to);
    --in_flight_;
  }

  /// The stream orders what comes after it: buckets are written anew when their sums have ended.
  void abandon() noexcept override { in_flight_ = open_ = used_ = 0; }

  bool sums_collections() const override { return options_.collected == Collected::sums; }
  void sum(Context& ctx, MatrixView<double> sums, bool) override {
    at_once(ctx, "Gram sums", [&] { Api::sum(comm_, stream_, sums.data, sums.size()); });
  }

  bool checks() const override { return options_.check; }
  void agree(Context& ctx, std::span<const SparseGradient<C, B>* const> selected) override {
    std::uint64_t hash = hash_bytes({});
    for (const SparseGradient<C, B>* s : selected)
      hash = hash_entries<C, B>(ctx, *s, hash);
    // The largest hash, and that of the complement, which is the smallest: equal where all are.
    const std::uint64_t mine[2] = {hash, ~hash};
    std::uint64_t most[2] = {};
    if (hashes_.empty()) hashes_.resize(ctx, 2);
    B::template upload<std::uint64_t>(ctx, mine, hashes_.data(), 2);
    at_once(ctx, "entries selected in this step",
            [&] { Api::most(comm_, stream_, hashes_.data(), index_t{2}); });
    B::template download<std::uint64_t>(ctx, hashes_.data(), most, 2);
    if (most[0] != ~most[1]) {
      throw CommunicationError(who("entries selected in this step") +
                               ": ranks have selected different ones, expected the same on all ranks");
    }
  }

 private:
  static constexpr bool rounds = std::is_same_v<C, float> && LowPrecisionBackend<B, bfloat16>;

  struct Bucket {
    index_t count = 0;
    Buffer<C, B> numbers;
    Buffer<bfloat16, B> halves;
    typename Api::Event summed{};
  };
  struct Slot {
    std::size_t bucket = 0;
    index_t first = 0;
  };

  index_t size_of(const Bucket& bucket) const {
    return halves() ? bucket.halves.size() : bucket.numbers.size();
  }
  bool halves() const { return options_.wire == WireType::bfloat16; }
  /// Begins the sum of the open bucket.
  void flush(Context& ctx) {
    if (used_ == open_) return;
    Bucket& bucket = *buckets_[open_];
    named(open_, [&] {
      Api::poll(comm_);
      Api::follow(stream_, copied_, ctx);
      if (halves()) {
        Api::sum(comm_, stream_, bucket.halves.data(), bucket.count);
      } else {
        Api::sum(comm_, stream_, bucket.numbers.data(), bucket.count);
      }
      Api::record(bucket.summed, stream_);
    });
    ++open_;
  }
  /// f's work on the engine's stream, between what the context did and what it will do.
  template <class F>
  void at_once(Context& ctx, const char* what, F&& f) {
    with_name([&] { return who(what); },
              [&] {
                Api::poll(comm_);
                Api::follow(stream_, copied_, ctx);
                f();
                Api::record(copied_, stream_);
                Api::wait(ctx, copied_);
              });
  }
  std::string who(const std::string& what) const {
    return "rank " + std::to_string(Api::rank(comm_)) + " of " + std::to_string(Api::size(comm_)) + ": " +
           what;
  }
  template <class F>
  void named(std::size_t bucket, F&& f) const {
    with_name([&] { return who("bucket " + std::to_string(bucket) + " of gradients"); }, std::forward<F>(f));
  }

  Comm comm_;
  Stream stream_;
  DeviceReduceOptions options_;
  typename Api::Event copied_;
  std::vector<std::unique_ptr<Bucket>> buckets_;
  std::vector<Slot> slots_;  ///< by layer
  Buffer<std::uint64_t, B> hashes_;
  std::size_t open_ = 0;  ///< the bucket that is being filled, or the next one
  std::size_t used_ = 0;  ///< buckets that hold gradients of this step
  std::size_t in_flight_ = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
