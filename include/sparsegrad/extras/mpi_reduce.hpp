// MpiCommunicator: sums over the processes of an MPI communicator. Target sparsegrad::mpi.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <mpi.h>

#include "../core/error.hpp"
#include "../core/low_precision.hpp"
#include "bucket_reduce.hpp"
#include "communicator.hpp"
#include "gradient_buckets.hpp"
#include "mpi_operation.hpp"
#include "mpi_roll_call.hpp"
#include "open_tickets.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of an MpiCommunicator.
struct MpiOptions {
  /// A wait that takes longer throws CommunicationError with the ranks that did not come. Longer than
  /// any rank computes between two calls.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  /// How long after a timeout the other ranks have to say that they are there.
  std::chrono::milliseconds grace = std::chrono::seconds(2);
  /// A thread lets messages go on while the caller computes: MPI does nothing between its calls. Takes
  /// some of a core while there are any, and MPI_Init_thread with MPI_THREAD_MULTIPLE.
  bool progress_thread = false;
  /// Asked about every millisecond of a wait: why it should end now, where another's end is known; empty
  /// text: it goes on.
  std::function<std::string()> watch = {};
};

/// A Communicator over an MPI communicator of the caller's, whose MPI_Init and MPI_Finalize stay the
/// caller's too.
///
///     MPI_Init(nullptr, nullptr);
///     {
///       MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = std::chrono::seconds(60)});
///       group.use_reduce(std::make_shared<BucketReducer<float>>(comm));
///       // ... training ...
///     }
///     MPI_Finalize();
///
/// A sum in the order of the ranks is made of two exchanges: each rank is sent its part [n r / N, n (r
/// + 1) / N) of all others' numbers and adds them in their order, then sends the sums to all. That is 2
/// (N - 1) / N of the bytes, as in a ring, in 2 (N - 1) messages. SumOrder::any is MPI_Iallreduce.
///
/// All calls come from one thread at a time (MPI_THREAD_SERIALIZED, or FUNNELED from the main one).
/// Messages move while a call of this class is made: `poll` in long work, or have a progress_thread.
/// After a
/// CommunicationError a process should end by MPI_Abort: MPI_Finalize may wait for ranks that are gone.
class MpiCommunicator final : public Communicator {
 public:
  /// Collective over `comm`, of which it makes a duplicate for itself that returns errors. (MPICH asks
  /// the handler of MPI_COMM_WORLD as well, and ends the process unless that is MPI_ERRORS_RETURN.) Throws
  /// StateError before MPI_Init, or for a progress_thread without MPI_THREAD_MULTIPLE; ValueError for a
  /// timeout that is not positive.
  explicit MpiCommunicator(MPI_Comm comm, MpiOptions options = {}) : options_(options) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized == 0) throw StateError("MpiCommunicator: MPI is not initialized; call MPI_Init first");
    if (options.timeout.count() <= 0 || options.grace.count() < 0) {
      throw ValueError("timeout is " + std::to_string(options.timeout.count()) + " ms and grace " +
                       std::to_string(options.grace.count()) + " ms, expected timeout > 0 and grace >= 0");
    }
    int threads = MPI_THREAD_SINGLE;
    MPI_Query_thread(&threads);
    if (options.progress_thread && threads < MPI_THREAD_MULTIPLE) {
      throw StateError(
          "MpiCommunicator: a progress thread needs MPI_THREAD_MULTIPLE, and MPI gives less; call "
          "MPI_Init_thread with it");
    }
    check(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup", "start");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", "start");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank", "start");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size", "start");
    calls_ = detail::MpiRollCall(comm_, rank_, size_);
    if (options.progress_thread) thread_ = std::thread([this] { go_on(); });
  }
  ~MpiCommunicator() override {
    {
      const Lock lock(mutex_);
      ends_ = true;
    }
    started_.notify_all();
    if (thread_.joinable()) thread_.join();
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (in_flight_.empty() && broken_.empty() && finalized == 0) {
      MPI_Comm_free(&comm_);
    } else {
      leave_in_flight();
    }
  }

  int rank() const override { return rank_; }
  /// Number of processes.
  int size() const override { return size_; }

  Ticket start_sum(std::span<float> data, SumOrder order, const std::string& what) override {
    return start(data, MPI_FLOAT, order, what);
  }
  Ticket start_sum(std::span<double> data, SumOrder order, const std::string& what) override {
    return start(data, MPI_DOUBLE, order, what);
  }
  Ticket start_sum(std::span<bfloat16> data, SumOrder, const std::string& what) override {
    return start(data, MPI_UINT16_T, SumOrder::rank, what);
  }
  Ticket start_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                      const std::string& what) override {
    const Lock lock(mutex_);
    require_whole();
    if (all.size() != mine.size() * static_cast<std::size_t>(size_)) {
      throw ValueError("gather: room for " + std::to_string(all.size()) + " bytes, expected " +
                       std::to_string(size_) + " times the " + std::to_string(mine.size()) +
                       " that a rank gives");
    }
    require_countable(all.size(), what);
    Operation& op = begin(MPI_BYTE, 1, all.size(), all.data(), what);
    op.stage = 2;
    if (!mine.empty()) std::memcpy(op.own.data() + part(op, rank_).first, mine.data(), mine.size());
    exchange_results(op);
    return op.ticket;
  }
  void wait(Ticket ticket) override {
    Lock lock(mutex_);
    require_whole();
    tickets_.close(ticket, "ticket");
    const auto begin = Clock::now();
    Clock::time_point asked = begin;
    for (int turn = 0;; ++turn) {
      advance_all();
      const Operation* op = find(ticket);
      if (op == nullptr) break;
      const auto now = Clock::now();
      // In ms: a long timeout has more ns than their type.
      if (std::chrono::duration_cast<std::chrono::milliseconds>(now - begin) >= options_.timeout)
        fail_late(*op);
      if (now - asked > std::chrono::milliseconds(1)) {
        calls_.answer(op->what);
        if (options_.watch) {
          if (const std::string why = options_.watch(); !why.empty()) fail(op->what + ": " + why);
        }
        asked = now;
      }
      lock.unlock();
      if (turn < 200) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      lock.lock();
      require_whole();
    }
    traffic_.waited_seconds += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  void poll() override {
    const Lock lock(mutex_);
    require_whole();
    advance_all();
  }
  void broadcast(std::span<std::byte> data, int root, const std::string& what) override {
    const Lock lock(mutex_);
    require_whole();
    if (root < 0 || root >= size_) {
      throw ValueError("broadcast: root is " + std::to_string(root) + ", expected a rank in [0, " +
                       std::to_string(size_) + ")");
    }
    // Pieces, since MPI counts in int.
    constexpr std::size_t most = std::size_t{1} << 28;
    for (std::size_t first = 0; first < data.size(); first += most) {
      const std::span<std::byte> piece = data.subspan(first, (std::min)(most, data.size() - first));
      Operation& op = begin(MPI_BYTE, 1, piece.size(), piece.data(), what);
      if (rank_ == root) {
        std::memcpy(op.own.data(), piece.data(), piece.size());
        for (int r = 0; r < size_; ++r)
          if (r != rank_) send(op, r, op.own.data() + part(op, r).first, part(op, r).count);
      } else {
        receive(op, root, op.own.data() + part(op, rank_).first, part(op, rank_).count);
      }
      op.stage = 1;
      op.adds = false;
      const Ticket ticket = op.ticket;
      wait(ticket);
    }
  }
  void barrier(const std::string& what) override {
    const std::byte mine{};
    std::vector<std::byte> all(static_cast<std::size_t>(size_));
    wait(start_gather(std::span(&mine, 1), all, what));
  }
  /// What was sent so far.
  Traffic traffic() const override {
    const Lock lock(mutex_);
    return traffic_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Lock = std::unique_lock<std::recursive_mutex>;

  using Operation = detail::MpiOperation;
  using Part = detail::MpiPart;

  template <class N>
  Ticket start(std::span<N> data, MPI_Datatype type, SumOrder order, const std::string& what) {
    const Lock lock(mutex_);
    require_whole();
    require_countable(data.size(), what);
    ++traffic_.sums;
    const std::size_t bytes = data.size() * sizeof(N);
    traffic_.payload_bytes += static_cast<std::int64_t>(bytes);
    Operation& op = begin(type, sizeof(N), data.size(), reinterpret_cast<std::byte*>(data.data()), what);
    if (bytes > 0) std::memcpy(op.own.data(), data.data(), bytes);
    if (order == SumOrder::any) {
      op.stage = 2;
      op.messages.push_back({.peer = -1});
      op.requests.push_back(MPI_REQUEST_NULL);
      const auto ranks = static_cast<std::size_t>(size_);
      traffic_.sent_bytes += static_cast<std::int64_t>(2 * (ranks - 1) * bytes / ranks);
      check(MPI_Iallreduce(MPI_IN_PLACE, op.own.data(), static_cast<int>(data.size()), type, MPI_SUM, comm_,
                           op.requests.data()),
            "MPI_Iallreduce", what);
      return op.ticket;
    }
    const Part mine = part(op, rank_);
    op.parts.resize(mine.count * static_cast<std::size_t>(size_));
    for (int r = 0; r < size_; ++r)
      if (r != rank_) receive(op, r, op.parts.data() + mine.count * static_cast<std::size_t>(r), mine.count);
    for (int r = 0; r < size_; ++r)
      if (r != rank_) send(op, r, op.own.data() + part(op, r).first, part(op, r).count);
    return op.ticket;
  }
  Operation& begin(MPI_Datatype type, std::size_t element, std::size_t count, std::byte* target,
                   const std::string& what) {
    auto op = free_.empty() ? std::make_unique<Operation>() : std::move(free_.back());
    if (!free_.empty()) free_.pop_back();
    op->ticket = tickets_.open();
    op->what = what;
    op->type = type;
    op->element = element;
    op->count = count;
    op->target = target;
    op->stage = 1;
    op->adds = true;
    op->own.resize(count * element);
    op->requests.clear();
    op->messages.clear();
    in_flight_.push_back(std::move(op));
    started_.notify_all();
    return *in_flight_.back();
  }
  Part part(const Operation& op, int r) const { return op.part(r, size_); }
  int tag(const Operation& op) const {
    return static_cast<int>(first_tag + 2 * (op.ticket % 16000) + (op.stage - 1));
  }
  // Empty messages are neither sent nor expected.
  void send(Operation& op, int peer, const std::byte* bytes, std::size_t count) {
    if (count == 0) return;
    op.messages.push_back({peer, false, count});
    op.requests.push_back(MPI_REQUEST_NULL);
    traffic_.sent_bytes += static_cast<std::int64_t>(count);
    check(MPI_Isend(bytes, static_cast<int>(count / op.element), op.type, peer, tag(op), comm_,
                    &op.requests.back()),
          "MPI_Isend", op.what, peer);
  }
  void receive(Operation& op, int peer, std::byte* bytes, std::size_t count) {
    if (count == 0) return;
    op.messages.push_back({peer, true, count});
    op.requests.push_back(MPI_REQUEST_NULL);
    check(MPI_Irecv(bytes, static_cast<int>(count / op.element), op.type, peer, tag(op), comm_,
                    &op.requests.back()),
          "MPI_Irecv", op.what, peer);
  }
  void exchange_results(Operation& op) {
    for (int r = 0; r < size_; ++r)
      if (r != rank_) receive(op, r, op.own.data() + part(op, r).first, part(op, r).count);
    for (int r = 0; r < size_; ++r)
      if (r != rank_) send(op, r, op.own.data() + part(op, rank_).first, part(op, rank_).count);
  }

  /// What the progress thread does.
  void go_on() {
    Lock lock(mutex_);
    while (!ends_) {
      try {
        if (broken_.empty()) advance_all();
      } catch (const CommunicationError&) {  // the caller's next call says so
      }
      if (in_flight_.empty()) {
        started_.wait(lock, [this] { return ends_ || !in_flight_.empty(); });
        continue;
      }
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      lock.lock();
    }
  }
  void advance_all() {
    for (std::size_t i = 0; i < in_flight_.size();) {
      if (!advance(*in_flight_[i])) {
        ++i;
        continue;
      }
      free_.push_back(std::move(in_flight_[i]));
      in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  /// Whether the operation has ended.
  bool advance(Operation& op) {
    while (arrived(op)) {
      op.requests.clear();
      op.messages.clear();
      if (op.stage == 2) {
        if (!op.own.empty()) std::memcpy(op.target, op.own.data(), op.own.size());
        return true;
      }
      if (op.adds) op.add_parts(rank_, size_, wide_);
      op.stage = 2;
      exchange_results(op);
    }
    return false;
  }
  /// Whether all messages of the present stage have come and gone.
  bool arrived(Operation& op) {
    bool all = true;
    for (std::size_t i = 0; i < op.requests.size(); ++i) {
      if (op.requests[i] == MPI_REQUEST_NULL) continue;
      const detail::MpiMessage& m = op.messages[i];
      int done = 0;
      MPI_Status status{};
      check(MPI_Test(&op.requests[i], &done, &status), "MPI_Test", op.what, m.peer, m.bytes);
      all = all && done != 0;
      if (done == 0 || !m.received) continue;
      int numbers = 0;
      MPI_Get_count(&status, op.type, &numbers);
      const std::size_t bytes = static_cast<std::size_t>((std::max)(numbers, 0)) * op.element;
      if (bytes != m.bytes) {
        fail(op.what + ": rank " + std::to_string(m.peer) + " has sent " + std::to_string(bytes) +
             " bytes, expected " + std::to_string(m.bytes) + "; all ranks must make the same calls");
      }
    }
    return all;
  }

  const Operation* find(Ticket ticket) const {
    for (const auto& op : in_flight_)
      if (op->ticket == ticket) return op.get();
    return nullptr;
  }

  // ---- what goes wrong -------------------------------------------------------------------------

  void require_whole() const {
    if (!broken_.empty()) throw CommunicationError(broken_);
  }
  void require_countable(std::size_t count, const std::string& what) const {
    if (count > static_cast<std::size_t>((std::numeric_limits<int>::max)())) {
      throw ValueError(what + ": " + std::to_string(count) + " numbers in one message, expected at most " +
                       std::to_string((std::numeric_limits<int>::max)()));
    }
  }
  void check(int code, const char* call, const std::string& what, int peer = -1, std::size_t bytes = 0) {
    if (code == MPI_SUCCESS) return;
    fail(what + ": " + call + (peer >= 0 ? " with rank " + std::to_string(peer) : std::string()) + ": " +
         detail::mpi_error_text(code, peer, bytes));
  }
  [[noreturn]] void fail(const std::string& text) {
    broken_ = "rank " + std::to_string(rank_) + " of " + std::to_string(size_) + ": " + text;
    leave_in_flight();
    throw CommunicationError(broken_);
  }
  /// The engine may still read and write the memory of what was started: it is never freed.
  void leave_in_flight() noexcept {
    for (auto& op : in_flight_)
      (void)op.release();
    in_flight_.clear();
  }

  /// Asks all ranks whether they are there, and throws with those that are not.
  [[noreturn]] void fail_late(const Operation& op) {
    const std::vector<std::string> said = calls_.ask(op.what, options_.grace);
    std::vector<int> silent;
    std::string waits;
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const std::string& text = said[static_cast<std::size_t>(r)];
      if (text.empty()) silent.push_back(r);
      waits += "; rank " + std::to_string(r) + " waits in '" + text + "'";
    }
    const std::string seconds =
        std::to_string(static_cast<double>(options_.timeout.count()) / 1000).substr(0, 6) + " s";
    if (!silent.empty()) {
      fail(op.what + ": " + ranks_text(silent) + (silent.size() == 1 ? " has" : " have") + " not come for " +
           seconds + " and " + (silent.size() == 1 ? "does" : "do") + " not answer");
    }
    fail(op.what + ": no end for " + seconds + waits + "; all ranks must make the same calls");
  }

  static constexpr Ticket first_tag = 16;  ///< those below are MpiRollCall's

  MpiOptions options_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  detail::OpenTickets tickets_;
  std::deque<std::unique_ptr<Operation>> in_flight_;
  std::vector<std::unique_ptr<Operation>> free_;  ///< kept for the calls that follow
  std::vector<float> wide_;
  detail::MpiRollCall calls_;
  std::string broken_;
  Traffic traffic_;
  mutable std::recursive_mutex mutex_;   ///< the caller's calls and the progress thread take turns
  std::condition_variable_any started_;  ///< wakes the progress thread
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
