// Communicator: processes that train one model together, and what they tell each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "../core/error.hpp"
#include "../core/low_precision.hpp"
#include "open_tickets.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// In which order a sum over ranks is taken.
enum class SumOrder {
  any,   ///< as the engine likes it: its fastest way, whose rounding depends on the number of ranks
  rank,  ///< ((x0 + x1) + x2) + ...: the bits of one process that adds the ranks' numbers in turn
};

/// What a communicator has sent and waited for so far.
struct Traffic {
  std::int64_t sums = 0;           ///< sums that were started
  std::int64_t payload_bytes = 0;  ///< of the numbers in them, as they are sent
  /// Bytes that this rank has sent to other ranks. Counted message by message, but in an engine's own
  /// sum (SumOrder::any), which does not tell: there 2 (N - 1) / N of the payload, the least there is.
  std::int64_t sent_bytes = 0;
  double waited_seconds = 0;  ///< time in which this rank did nothing but wait
};

/// A group of processes, the ranks 0 to size() - 1, that make the same calls in the same order.
///
///     const auto sum = comm.start_sum(std::span(numbers), SumOrder::rank, "layer 3");
///     // ... other work ...
///     comm.wait(sum);                                 // numbers are the sums over all ranks
///
/// `what` names a call in messages. All calls throw CommunicationError, which names this rank, the
/// call, and the ranks that did not come where these are known. After one the communicator is of no
/// use: later calls throw it again.
class Communicator {
 public:
  /// A sum or exchange that has been started.
  using Ticket = std::int64_t;

  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  /// This process's number.
  virtual int rank() const = 0;
  /// Number of processes.
  virtual int size() const = 0;

  /// Starts to make `data` the sum over ranks, the same bits on all of them. The memory must stand,
  /// and not be looked at, until `wait`. Throws ValueError for more than 2^31 - 1 numbers.
  virtual Ticket start_sum(std::span<float> data, SumOrder order, const std::string& what) = 0;
  /// The same in double.
  virtual Ticket start_sum(std::span<double> data, SumOrder order, const std::string& what) = 0;
  /// The same with 16 bits a number on the wire: added in float in the order of the ranks, and
  /// rounded once.
  virtual Ticket start_sum(std::span<bfloat16> data, SumOrder order, const std::string& what) = 0;
  /// Starts to fill `all` with what every rank gives in `mine`, in the order of the ranks: size()
  /// times as many bytes. Both must stand until `wait`.
  virtual Ticket start_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                              const std::string& what) = 0;
  /// Ends what was started. Each ticket is awaited once: throws StateError for any other.
  virtual void wait(Ticket ticket) = 0;
  /// Lets messages go on that were started; to be called now and then in long work.
  virtual void poll() = 0;
  /// Makes `data` that of rank `root`.
  virtual void broadcast(std::span<std::byte> data, int root, const std::string& what) = 0;
  /// Returns when all ranks have called it.
  virtual void barrier(const std::string& what) = 0;
  /// What was sent so far.
  virtual Traffic traffic() const = 0;

  /// Sums at once.
  template <class N>
  void sum(std::span<N> data, SumOrder order = SumOrder::rank, const std::string& what = "sum") {
    wait(start_sum(data, order, what));
  }
  /// What every rank gives, by rank; lengths may differ.
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine, const std::string& what) {
    const auto ranks = static_cast<std::size_t>(size());
    const auto length = static_cast<std::uint64_t>(mine.size());
    std::vector<std::uint64_t> lengths(ranks);
    wait(
        start_gather(std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(lengths)), what));
    std::uint64_t most = 0;
    for (const std::uint64_t n : lengths)
      most = n > most ? n : most;
    std::vector<std::byte> padded(static_cast<std::size_t>(most));
    if (!mine.empty()) std::memcpy(padded.data(), mine.data(), mine.size());
    std::vector<std::byte> all(padded.size() * ranks);
    wait(start_gather(padded, all, what));
    std::vector<std::vector<std::byte>> parts;
    for (std::size_t r = 0; r < ranks; ++r) {
      const std::byte* part = all.data() + r * padded.size();
      parts.emplace_back(part, part + static_cast<std::size_t>(lengths[r]));
    }
    return parts;
  }
  /// Throws CommunicationError, on every rank, unless all give the same number: a hash of what they
  /// must agree on. The text names the ranks that differ from rank 0.
  void require_equal(std::uint64_t hash, const std::string& what) {
    std::vector<std::uint64_t> all(static_cast<std::size_t>(size()));
    wait(start_gather(std::as_bytes(std::span(&hash, 1)), std::as_writable_bytes(std::span(all)), what));
    std::vector<int> differ;
    for (std::size_t r = 1; r < all.size(); ++r)
      if (all[r] != all[0]) differ.push_back(static_cast<int>(r));
    if (differ.empty()) return;
    throw CommunicationError("rank " + std::to_string(rank()) + " of " + std::to_string(size()) + ": " +
                             what + ": " + ranks_text(differ) + (differ.size() == 1 ? " has" : " have") +
                             " something else than rank 0, expected the same on all ranks");
  }

  /// "rank 2", "ranks 1, 2": for messages.
  static std::string ranks_text(const std::vector<int>& ranks) {
    std::string text = ranks.size() == 1 ? "rank " : "ranks ";
    for (std::size_t i = 0; i < ranks.size(); ++i)
      text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
    return text;
  }
};

/// The communicator of a process that trains alone: every sum is what it was.
class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  /// One.
  int size() const override { return 1; }
  Ticket start_sum(std::span<float>, SumOrder, const std::string&) override { return count(); }
  Ticket start_sum(std::span<double>, SumOrder, const std::string&) override { return count(); }
  Ticket start_sum(std::span<bfloat16>, SumOrder, const std::string&) override { return count(); }
  Ticket start_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                      const std::string&) override {
    if (!mine.empty()) std::memcpy(all.data(), mine.data(), mine.size());
    return tickets_.open();
  }
  void wait(Ticket ticket) override { tickets_.close(ticket, "ticket"); }
  void poll() override {}
  void broadcast(std::span<std::byte>, int, const std::string&) override {}
  void barrier(const std::string&) override {}
  /// Nothing is sent.
  Traffic traffic() const override { return traffic_; }

 private:
  Ticket count() {
    ++traffic_.sums;
    return tickets_.open();
  }
  Traffic traffic_;
  detail::OpenTickets tickets_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
