// HostContext: threads, determinism and scratch memory of the host backends.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../../core/error.hpp"
#include "available_threads.hpp"
#include "blas_threads.hpp"
#include "scratch.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

/// Somebody who runs tasks side by side: implement it over an engine's own thread pool to have the
/// library run there.
class Executor {
 public:
  /// A function that `run` calls, with its argument, the task's number and the worker's.
  using Task = void (*)(void* argument, index_t task, int worker);
  virtual ~Executor() = default;
  /// Largest number of tasks that run at the same time, the caller's thread included: at least 1.
  /// A context asks once, when it is made.
  virtual int concurrency() const = 0;
  /// Calls task(argument, i, worker) once for each i in [0, count), 0 <= worker < concurrency(), no
  /// worker number used by two threads at once; returns when all calls have ended. `task` does not
  /// throw. A call that is seen to be outside of this contract makes the library's call throw
  /// StateError.
  virtual void run(index_t count, Task task, void* argument) = 0;
};

/// The library's own pool: `threads` - 1 sleeping threads; the caller works too. Touches no
/// process-wide state. A forked child has none of these threads and must not use it.
class ThreadPool final : public Executor {
 public:
  /// Returns when all threads have started, so that what a thread allocates at its start is no part
  /// of later work. Throws std::system_error when a thread cannot be started; those that were have
  /// ended then.
  explicit ThreadPool(int threads) {
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (int id = 1; id < threads; ++id)
        workers_.emplace_back([this, id] { work(id); });
    } catch (...) {
      end();
      throw;
    }
    for (int ready = started_.load(); ready != threads - 1; ready = started_.load())
      started_.wait(ready);
  }
  ~ThreadPool() override { end(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int concurrency() const override { return static_cast<int>(workers_.size()) + 1; }

  void run(index_t count, Task task, void* argument) override {
    task_ = task;
    argument_ = argument;
    count_ = count;
    next_.store(0);
    working_.store(static_cast<int>(workers_.size()));
    generation_.fetch_add(1);
    generation_.notify_all();
    drain(0);
    for (int spin = 0; working_.load() != 0; ++spin) {
      if (spin >= spin_limit) {
        const int left = working_.load();
        if (left != 0) working_.wait(left);
      }
    }
  }

 private:
  // A short spin bridges the gaps between the products of one step; longer waits sleep.
  static constexpr int spin_limit = 4000;

  void end() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& worker : workers_)
      worker.join();
  }

  void drain(int worker) {
    for (index_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1))
      task_(argument_, i, worker);
  }

  void work(int id) {
    // These threads are the pool's own: a BLAS called from them stays on them. Said once, at their
    // start, because an OpenMP runtime takes memory when a thread says it for the first time.
    const BlasThreads serial(1);
    started_.fetch_add(1);
    started_.notify_one();
    std::uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < spin_limit && generation_.load() == seen; ++spin) {
      }
      generation_.wait(seen);
      ++seen;
      if (stop_.load()) return;
      drain(id);
      if (working_.fetch_sub(1) == 1) working_.notify_one();
    }
  }

  Task task_ = nullptr;
  void* argument_ = nullptr;
  index_t count_ = 0;
  std::atomic<index_t> next_{0};
  std::atomic<int> started_{0};
  std::atomic<int> working_{0};
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

/// What a host computation needs besides its arguments. First argument of all that computes, sole
/// owner of scratch memory. One caller at a time; several contexts may work side by side. A call
/// that meets another thread in it throws StateError; the numbers of both are then worth nothing.
class HostContext {
  /// The calling thread's turn in a context, until it ends; a turn within it changes nothing.
  class Turn {
   public:
    /// Throws StateError while another thread has the context, unless this one runs a task for it.
    explicit Turn(HostContext& ctx) {
      const void* owner = ctx.owner_.load(std::memory_order_relaxed);
      if (owner == &task_of_ || task_of_ == &ctx) return;
      if (owner != nullptr || !ctx.owner_.compare_exchange_strong(owner, &task_of_)) {
        throw StateError(
            "two threads compute on one context at once, expected one caller at a time: make a context for "
            "each thread");
      }
      owner_ = &ctx.owner_;
    }
    ~Turn() {
      if (owner_ != nullptr) owner_->store(nullptr, std::memory_order_release);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::atomic<const void*>* owner_ = nullptr;
  };

 public:
  /// Temporary memory in the calling thread's turn.
  class Frame : Turn, public Scratch::Frame {
   public:
    /// Throws StateError while another thread computes on the context.
    explicit Frame(HostContext& ctx) : Turn(ctx), Scratch::Frame(ctx.scratch_) {}
  };

  /// Most threads that a context takes.
  static constexpr int most_threads = 65536;

  /// Runs on `threads` threads of its own, the caller's included; 0: as many as this process may
  /// keep busy (`available_threads`: affinity and the quotas of control groups).
  /// Throws ValueError unless 0 <= threads <= 65536, std::system_error when the system has no more.
  explicit HostContext(int threads = 0, bool deterministic = false) : deterministic_(deterministic) {
    if (threads < 0) throw ValueError("threads is " + std::to_string(threads) + ", expected >= 0 (0: all)");
    if (threads > most_threads) {
      throw ValueError("threads is " + std::to_string(threads) + ", expected at most " +
                       std::to_string(most_threads));
    }
    threads_ = threads > 0 ? threads : available_threads();
    if (threads_ > 1) {
      pool_ = std::make_unique<ThreadPool>(threads_);
      executor_ = pool_.get();
    }
  }

  /// Runs on a borrowed executor, which must outlive the context. Throws ValueError unless its
  /// concurrency is in [1, 65536].
  explicit HostContext(Executor& executor, bool deterministic = false)
      : threads_(executor.concurrency()), deterministic_(deterministic), executor_(&executor) {
    if (threads_ < 1 || threads_ > most_threads) {
      throw ValueError("the executor's concurrency is " + std::to_string(threads_) +
                       ", expected 1 <= concurrency <= " + std::to_string(most_threads));
    }
    busy_ = std::make_unique<std::atomic<bool>[]>(static_cast<std::size_t>(threads_));
  }

  /// Number of threads that it computes on.
  int threads() const { return threads_; }

  /// With determinism on, results have the same bits for any number of threads.
  bool deterministic() const { return deterministic_; }
  /// Turns determinism on or off.
  void deterministic(bool on) { deterministic_ = on; }

  /// The temporary memory itself, to reserve or measure it.
  Scratch& scratch() { return scratch_; }
  /// Temporary memory until the frame ends. Throws StateError while another thread computes here.
  Frame frame() { return Frame(*this); }

  /// Calls f(i) or f(i, worker) for every i in [0, count), side by side; rethrows the first
  /// exception, also one of a borrowed executor. A call from inside a task runs on that task's
  /// thread, whose number is not known there: f(i) alone is allowed then (StateError). A task must
  /// not use the context's scratch memory. Throws StateError when a borrowed executor breaks its
  /// contract: a task or worker out of range or a worker in two tasks at once, whose task is not
  /// run; a task run twice or not at all, which shows at the end, when the results are already wrong;
  /// and while another thread computes here.
  template <class F>
  void parallel_for(index_t count, F&& f) {
    if (count <= 0) return;
    const bool nested = task_of_ == this;
    if (nested && std::is_invocable_v<F&, index_t, int>) {
      throw StateError(
          "parallel_for from inside a task: f(i, worker) cannot be told its worker, expected f(i)");
    }
    const Turn turn(*this);
    if (executor_ == nullptr || count == 1 || nested) {
      for (index_t i = 0; i < count; ++i)
        call(f, i, 0);
      return;
    }
    struct Shared {
      std::remove_reference_t<F>* f;
      const HostContext* context;
      Claims claims;
      std::exception_ptr error;
      std::mutex mutex;
    } shared{&f, this, {count, threads_, busy_.get()}, nullptr, {}};
    executor_->run(
        count,
        [](void* argument, index_t i, int worker) {
          auto& s = *static_cast<Shared*>(argument);
          const Inside inside(s.context);
          try {
            const typename Claims::Task claim(s.claims, i, worker);
            call(*s.f, i, worker);
          } catch (...) {
            const std::lock_guard lock(s.mutex);
            if (!s.error) s.error = std::current_exception();
          }
        },
        &shared);
    if (shared.error) std::rethrow_exception(shared.error);
    shared.claims.require_all();
  }

  /// Calls f(begin, end) on pieces of [0, count) of at least `grain` elements, one a thread at
  /// most.
  template <class F>
  void parallel_ranges(index_t count, index_t grain, F&& f) {
    const index_t pieces = std::clamp<index_t>(count / std::max<index_t>(grain, 1), 1, threads_);
    parallel_for(pieces, [&](index_t p) { f(count * p / pieces, count * (p + 1) / pieces); });
  }

 private:
  /// Says that this thread runs a task of a context, until it ends.
  class Inside {
   public:
    explicit Inside(const HostContext* context) : outer_(task_of_) { task_of_ = context; }
    ~Inside() { task_of_ = outer_; }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    const HostContext* outer_;
  };

  /// What a borrowed executor ran in one call, against its contract; nothing is counted for the
  /// context's own pool, whose `busy` is null.
  struct Claims {
    index_t count;
    int threads;
    std::atomic<bool>* busy;
    std::atomic<index_t> ran{0};
    std::atomic<std::uint64_t> sum{0};  // of the tasks' numbers: one twice in place of another

    /// Task i while `worker` runs it. Throws StateError where it may not.
    class Task {
     public:
      /// Claims task i for `worker`. Throws StateError.
      Task(Claims& claims, index_t i, int worker) {
        if (claims.busy == nullptr) return;
        if (i < 0 || i >= claims.count) {
          throw StateError("the executor ran task " + std::to_string(i) + ", expected each of [0, " +
                           std::to_string(claims.count) + ") once");
        }
        if (worker < 0 || worker >= claims.threads) {
          throw StateError("the executor ran a task as worker " + std::to_string(worker) +
                           ", expected one in [0, " + std::to_string(claims.threads) +
                           "), its concurrency when the context was made");
        }
        if (claims.busy[worker].exchange(true, std::memory_order_acquire)) {
          throw StateError("the executor ran two tasks at once as worker " + std::to_string(worker) +
                           ", expected a worker number of its own for each thread");
        }
        busy_ = &claims.busy[worker];
        claims.ran.fetch_add(1, std::memory_order_relaxed);
        claims.sum.fetch_add(static_cast<std::uint64_t>(i), std::memory_order_relaxed);
      }
      ~Task() {
        if (busy_ != nullptr) busy_->store(false, std::memory_order_release);
      }
      Task(const Task&) = delete;
      Task& operator=(const Task&) = delete;

     private:
      std::atomic<bool>* busy_ = nullptr;
    };

    /// Throws StateError unless each task ran once.
    void require_all() const {
      if (busy == nullptr) return;
      const auto n = static_cast<std::uint64_t>(count);
      const std::uint64_t all = n % 2 == 0 ? n / 2 * (n - 1) : (n - 1) / 2 * n;
      if (ran.load() == count && sum.load() == all) return;
      throw StateError("the executor ran " + std::to_string(ran.load()) + " tasks" +
                       (ran.load() == count ? ", one of them again in place of another" : "") +
                       ", expected each of [0, " + std::to_string(count) +
                       ") once, and all ended when run returns");
    }
  };
  template <class F>
  static void call(F& f, index_t i, int worker) {
    if constexpr (std::is_invocable_v<F&, index_t, int>) {
      f(i, worker);
    } else {
      f(i);
    }
  }

  /// The context whose task this thread runs. Its address stands for the thread.
  inline static thread_local const HostContext* task_of_ = nullptr;

  int threads_ = 1;
  bool deterministic_ = false;
  std::atomic<const void*> owner_{nullptr};
  Executor* executor_ = nullptr;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<std::atomic<bool>[]> busy_;  // by worker of a borrowed executor
  Scratch scratch_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
