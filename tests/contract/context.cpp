// HostContext, ThreadPool, Scratch and MatrixView: what every host backend stands on.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sparsegrad/backend/host/context.hpp>
#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/overlap.hpp>
#include <sparsegrad/core/view.hpp>

namespace sparsegrad {
namespace {

// The thread sanitizer ends the program where memory runs out.
#if defined(__SANITIZE_THREAD__)
constexpr bool ends_without_memory = true;
#else
constexpr bool ends_without_memory = false;
#endif

using backend::host::Executor;
using backend::host::HostContext;
using backend::host::Scratch;
using backend::host::ThreadPool;

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_CASE("MatrixView: layout, blocks, refusals with their text") {
  std::vector<float> memory(12);
  std::iota(memory.begin(), memory.end(), 0.0F);
  const MatrixView<float> a(memory.data(), 3, 3, 4);
  CHECK(a(2, 1) == 9);
  CHECK(a.size() == 9);
  CHECK_FALSE(a.contiguous());
  CHECK(MatrixView<float>(memory.data(), 3, 4).contiguous());
  CHECK(MatrixView<float>(memory.data(), 1, 3, 4).contiguous());
  const MatrixView<const float> part = a.block(1, 1, 2, 2);
  CHECK(part(1, 1) == 10);
  CHECK(part.stride == 4);
  CHECK(MatrixView<float>().empty());
  CHECK(MatrixView<float>(nullptr, 0, 7).empty());
  CHECK(message_of([&] { MatrixView<float>(memory.data(), 3, 4, 2); }) ==
        "matrix view of 3x4 with row stride 2: expected extents >= 0, stride >= cols, and data that is not "
        "null");
  CHECK_THROWS_AS(MatrixView<float>(memory.data(), -1, 2), ShapeError);
  CHECK_THROWS_AS(MatrixView<float>(memory.data(), 2, -1), ShapeError);
  CHECK_THROWS_AS(MatrixView<float>(nullptr, 1, 1), ShapeError);
}

TEST_CASE("MatrixView: an extent in bytes that cannot be counted is refused") {
  std::vector<float> memory(1);
  constexpr index_t large = index_t{1} << 33;
  CHECK(message_of([&] { MatrixView<float>(memory.data(), large, large); }) ==
        "matrix view of 8589934592x8589934592 with row stride 8589934592: expected one of less than 2^63 "
        "bytes");
  CHECK_THROWS_AS(MatrixView<float>(memory.data(), index_t{1} << 30, large), ShapeError);
  CHECK_THROWS_AS(MatrixView<float>(memory.data(), index_t{1} << 61, 1), ShapeError);
  CHECK_THROWS_AS(MatrixView<float>(memory.data(), index_t{1} << 31, 1, index_t{1} << 30), ShapeError);
  CHECK_NOTHROW(MatrixView<float>(memory.data(), index_t{1} << 30, index_t{1} << 30));
  CHECK_NOTHROW(MatrixView<float>(memory.data(), 0, std::numeric_limits<index_t>::max()));
  CHECK_NOTHROW(MatrixView<float>(memory.data(), 1, 1, index_t{1} << 60));
}

TEST_CASE("overlap: found where an element is in both, not where views interleave") {
  std::vector<float> memory(60);
  const auto at = [&](index_t first, index_t rows, index_t cols, index_t stride) {
    return MatrixView<float>(memory.data() + first, rows, cols, stride);
  };
  std::vector<int> used(60);
  int overlapping = 0;
  const std::vector<MatrixView<float>> views{
      at(0, 4, 3, 12), at(3, 4, 3, 12),  at(2, 4, 2, 12), at(9, 4, 6, 12), at(48, 1, 9, 9),  at(0, 2, 3, 3),
      at(6, 5, 1, 7),  at(0, 5, 12, 12), at(59, 1, 1, 1), at(24, 0, 3, 3), at(12, 3, 12, 12)};
  for (const auto& a : views) {
    for (const auto& b : views) {
      std::fill(used.begin(), used.end(), 0);
      bool expected = false;
      for (index_t i = 0; i < a.rows; ++i)
        for (index_t j = 0; j < a.cols; ++j)
          used[static_cast<std::size_t>(&a(i, j) - memory.data())] = 1;
      for (index_t i = 0; i < b.rows; ++i)
        for (index_t j = 0; j < b.cols; ++j)
          expected = expected || used[static_cast<std::size_t>(&b(i, j) - memory.data())] != 0;
      CHECK(overlap(a, b) == expected);
      overlapping += expected ? 1 : 0;
    }
  }
  CHECK(overlapping > 30);
  CHECK(overlapping < 90);
  CHECK(message_of([&] { require_apart("Y", views[0], "X", views[2]); }) ==
        "Y overlaps X in memory, expected memory of its own: it is written while X is still to be read");
}

TEST_CASE("require_shape names the argument and both shapes") {
  CHECK(message_of([] { require_shape("dY", 3, 5, 3, 4, "tokens x out"); }) ==
        "dY is 3x5, expected 3x4 (tokens x out)");
  CHECK_NOTHROW(require_shape("dY", 3, 4, 3, 4, "tokens x out"));
}

TEST_CASE("HostContext: number of threads") {
  CHECK(HostContext(3).threads() == 3);
  CHECK(HostContext(1).threads() == 1);
  CHECK(HostContext(0).threads() >= 1);
  CHECK(message_of([] { HostContext(-2); }) == "threads is -2, expected >= 0 (0: all)");
  HostContext ctx(1, true);
  CHECK(ctx.deterministic());
  ctx.deterministic(false);
  CHECK_FALSE(ctx.deterministic());
}

/// Says that it runs `concurrency` tasks at once; runs all as worker `worker`.
class OddExecutor final : public Executor {
 public:
  int threads = 2;
  int worker = 0;
  int concurrency() const override { return threads; }
  void run(index_t count, Task task, void* argument) override {
    for (index_t i = 0; i < count; ++i)
      task(argument, i, worker);
  }
};

TEST_CASE("HostContext: an executor without threads, or with other workers than it said, is refused") {
  OddExecutor executor;
  for (const int none : {0, -1, -2147483647}) {
    executor.threads = none;
    CHECK(message_of([&] { HostContext ctx(executor); }) ==
          "the executor's concurrency is " + std::to_string(none) + ", expected 1 <= concurrency <= 65536");
  }
  executor.threads = 70000;
  CHECK_THROWS_AS(HostContext ctx(executor), ValueError);
  CHECK_THROWS_AS(HostContext(70000), ValueError);
  executor.threads = 2;
  HostContext ctx(executor);
  executor.threads = 5;  // has grown
  for (const int worker : {2, 4, -1}) {
    executor.worker = worker;
    int calls = 0;
    CHECK(message_of([&] { ctx.parallel_for(3, [&](index_t) { ++calls; }); }) ==
          "the executor ran a task as worker " + std::to_string(worker) +
              ", expected one in [0, 2), its concurrency when the context was made");
    CHECK(calls == 0);
  }
  executor.worker = 1;
  executor.threads = 0;  // has shrunk: what it runs is taken as it comes
  int calls = 0;
  ctx.parallel_for(3, [&](index_t) { ++calls; });
  CHECK(calls == 3);
}

/// Runs the tasks of `order` as worker 1, whatever was asked for; `run_one` runs one more.
class LyingExecutor final : public Executor {
 public:
  std::vector<index_t> order;
  int concurrency() const override { return 2; }
  void run(index_t, Task task, void* argument) override {
    task_ = task;
    argument_ = argument;
    for (const index_t i : order)
      run_one(i);
  }
  void run_one(index_t i) { task_(argument_, i, 1); }

 private:
  Task task_ = nullptr;
  void* argument_ = nullptr;
};

TEST_CASE("HostContext: an executor that breaks its contract is refused, and used again afterwards") {
  LyingExecutor executor;
  HostContext ctx(executor);
  std::vector<int> calls(6);  // two more than asked for, so that a failing test writes to its own memory
  const auto message = [&](std::vector<index_t> order) {
    executor.order = std::move(order);
    return message_of([&] { ctx.parallel_for(4, [&](index_t i) { ++calls[static_cast<std::size_t>(i)]; }); });
  };
  const std::string once = ", expected each of [0, 4) once, and all ended when run returns";
  CHECK(message({0, 1, 2, 3, 2}) == "the executor ran 5 tasks" + once);
  CHECK(message({0, 1, 3}) == "the executor ran 3 tasks" + once);
  CHECK(message({}) == "the executor ran 0 tasks" + once);
  CHECK(message({0, 1, 1, 3}) == "the executor ran 4 tasks, one of them again in place of another" + once);
  CHECK(message({0, 1, 2, 3, 4}) == "the executor ran task 4, expected each of [0, 4) once");
  CHECK(message({0, 1, 2, 3, 5, -1}) == "the executor ran task 5, expected each of [0, 4) once");
  CHECK(calls[4] + calls[5] == 0);
  CHECK(message({3, 1, 2, 0}) == "nothing was thrown");

  // Another task begins as the worker of one that has not ended, on another thread.
  executor.order = {0};
  int inside = 0;
  CHECK(
      message_of([&] {
        ctx.parallel_for(2, [&](index_t) {
          ++inside;
          std::thread([&] { executor.run_one(1); }).join();
        });
      }) ==
      "the executor ran two tasks at once as worker 1, expected a worker number of its own for each thread");
  CHECK(inside == 1);
  CHECK(message({0, 1, 2, 3}) == "nothing was thrown");
}

TEST_CASE("parallel_for: every task once, workers within range, none twice at once") {
  for (const int threads : {1, 2, 5}) {
    HostContext ctx(threads);
    for (const index_t count : {index_t{0}, index_t{1}, index_t{2}, index_t{1000}}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      std::vector<std::atomic<int>> busy(static_cast<std::size_t>(threads));
      std::atomic<bool> clash{false};
      ctx.parallel_for(count, [&](index_t i, int worker) {
        if (worker < 0 || worker >= threads) {
          clash = true;
          return;
        }
        if (busy[static_cast<std::size_t>(worker)].fetch_add(1) != 0) clash = true;
        ++calls[static_cast<std::size_t>(i)];
        busy[static_cast<std::size_t>(worker)].fetch_sub(1);
      });
      CHECK_FALSE(clash.load());
      bool once = true;
      for (const auto& c : calls)
        once = once && c.load() == 1;
      CHECK(once);
    }
  }
}

TEST_CASE("parallel_ranges: covers the range without gaps, no more pieces than threads") {
  HostContext ctx(3);
  for (const index_t count : {0, 1, 2, 10, 1001}) {
    for (const index_t grain : {0, 1, 7, 5000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      std::atomic<int> pieces{0};
      ctx.parallel_ranges(count, grain, [&](index_t begin, index_t end) {
        ++pieces;
        for (index_t i = begin; i < end; ++i)
          ++calls[static_cast<std::size_t>(i)];
      });
      CHECK(pieces.load() <= 3);
      bool once = true;
      for (const auto& c : calls)
        once = once && c.load() == 1;
      CHECK(once);
    }
  }
}

TEST_CASE("parallel_for: the first exception comes out, the context works on") {
  for (const int threads : {1, 3}) {
    HostContext ctx(threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      const auto fail = [&] {
        ctx.parallel_for(50, [](index_t i) {
          if (i % 7 == 3) throw std::out_of_range("task " + std::to_string(i));
        });
      };
      CHECK_THROWS_AS(fail(), std::out_of_range);
      std::atomic<index_t> sum{0};
      ctx.parallel_for(100, [&](index_t i) { sum += i; });
      CHECK(sum.load() == 4950);
    }
  }
}

TEST_CASE("parallel_for: a call from inside a task runs there") {
  HostContext ctx(3);
  std::atomic<index_t> sum{0};
  ctx.parallel_for(10, [&](index_t) { ctx.parallel_for(10, [&](index_t i) { sum += i; }); });
  CHECK(sum.load() == 450);
}

TEST_CASE("parallel_for: inside a task no worker is known, so f(i, worker) is refused") {
  HostContext ctx(3);
  std::atomic<int> refused{0};
  ctx.parallel_for(10, [&](index_t) {
    try {
      ctx.parallel_for(10, [&](index_t, int) {});
    } catch (const StateError&) {
      ++refused;
    }
  });
  CHECK(refused.load() == 10);
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("ThreadPool: a thread that cannot be started is an exception" *
          doctest::skip(ends_without_memory)) {
  // 4000 stacks of 8 MB do not fit below a limit of 4 GB of address space.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit{rlim_t{4} << 30, rlim_t{4} << 30};
    ::setrlimit(RLIMIT_AS, &limit);
    try {
      const HostContext ctx(4000);
    } catch (const std::system_error&) {
      ::_exit(0);
    } catch (const std::bad_alloc&) {
      ::_exit(0);
    }
    ::_exit(1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif

TEST_CASE("ThreadPool: many short runs") {
  for (const int threads : {2, 3, 8}) {
    HostContext ctx(threads);
    std::atomic<index_t> sum{0};
    for (int repeat = 0; repeat < 20000; ++repeat)
      ctx.parallel_for(4, [&](index_t i) { sum.fetch_add(i, std::memory_order_relaxed); });
    CHECK(sum.load() == 20000 * 6);
  }
}

TEST_CASE("ThreadPool: starts and ends without work") {
  for (int repeat = 0; repeat < 50; ++repeat) {
    const HostContext ctx(3);
    CHECK(ctx.threads() == 3);
  }
}

/// Runs tasks backwards on the caller's thread, as worker 1 of 2.
class BackwardExecutor final : public Executor {
 public:
  int concurrency() const override { return 2; }
  void run(index_t count, Task task, void* argument) override {
    ++runs;
    for (index_t i = count - 1; i >= 0; --i)
      task(argument, i, 1);
  }
  int runs = 0;
};

TEST_CASE("a borrowed executor runs the tasks") {
  BackwardExecutor executor;
  HostContext ctx(executor);
  CHECK(ctx.threads() == 2);
  std::vector<index_t> seen;
  int worker_seen = 0;
  ctx.parallel_for(4, [&](index_t i, int worker) {
    seen.push_back(i);
    worker_seen = worker;
  });
  CHECK(seen == std::vector<index_t>{3, 2, 1, 0});
  CHECK(worker_seen == 1);
  CHECK(executor.runs == 1);
  const auto fail = [&] { ctx.parallel_for(3, [](index_t) { throw StateError("from a task"); }); };
  CHECK_THROWS_AS(fail(), StateError);
}

/// Refuses to run once, then runs its tasks on two threads.
class FailingExecutor final : public Executor {
 public:
  int concurrency() const override { return 2; }
  void run(index_t count, Task task, void* argument) override {
    ++runs;
    if (runs == 1) throw std::runtime_error("the pool is closed");
    for (index_t i = 0; i < count; ++i)
      task(argument, i, 1);
  }
  int runs = 0;
};

TEST_CASE("a borrowed executor that throws is used again afterwards") {
  FailingExecutor executor;
  HostContext ctx(executor);
  CHECK_THROWS_AS(ctx.parallel_for(4, [](index_t) {}), std::runtime_error);
  index_t sum = 0;
  ctx.parallel_for(4, [&](index_t i) { sum += i; });
  CHECK(sum == 6);
  CHECK(executor.runs == 2);
}

TEST_CASE("Scratch: pieces do not overlap, are aligned, and end with their frame") {
  Scratch scratch;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> pieces;
  const Scratch::Frame outer(scratch);
  {
    Scratch::Frame frame(scratch);
    for (const index_t count : {0, 1, 63, 64, 1000, 100000, 5, 0, 300000}) {
      char* p = frame.take<char>(count);
      const auto at = reinterpret_cast<std::uintptr_t>(p);
      CHECK(at % 64 == 0);
      std::fill(p, p + count, 'x');
      const std::uintptr_t end = at + std::max<std::uintptr_t>(static_cast<std::uintptr_t>(count), 1);
      for (const auto& [first, last] : pieces)
        CHECK((end <= first || at >= last));
      pieces.emplace_back(at, end);
    }
  }
}

TEST_CASE("Scratch: an inner frame leaves the outer one's pieces alone, also across blocks") {
  Scratch scratch;
  for (int repeat = 0; repeat < 3; ++repeat) {
    Scratch::Frame outer(scratch);
    int* kept = outer.take<int>(1000);
    std::iota(kept, kept + 1000, repeat);
    for (const index_t count : {10, 100000, 20, 1000000}) {
      Scratch::Frame inner(scratch);
      int* p = inner.take<int>(count);
      std::fill(p, p + count, -1);
      Scratch::Frame deeper(scratch);
      int* q = deeper.take<int>(2 * count);
      std::fill(q, q + 2 * count, -2);
      CHECK(p[count - 1] == -1);
    }
    int* second = outer.take<int>(50000);
    std::fill(second, second + 50000, -3);
    bool same = true;
    for (int i = 0; i < 1000; ++i)
      same = same && kept[i] == i + repeat;
    CHECK(same);
  }
}

TEST_CASE("Scratch: after one turn the memory is one block that no longer grows") {
  Scratch scratch;
  const auto turn = [&] {
    Scratch::Frame outer(scratch);
    outer.take<double>(1000);
    for (const index_t count : {50000, 10, 200000}) {
      Scratch::Frame inner(scratch);
      inner.take<double>(count);
      inner.take<double>(count / 2);
    }
    outer.take<double>(77);
  };
  turn();
  turn();
  const index_t bytes = scratch.bytes();
  for (int repeat = 0; repeat < 5; ++repeat)
    turn();
  CHECK(scratch.bytes() == bytes);
  CHECK(bytes <= static_cast<index_t>((1000 + 300000 + 77) * sizeof(double) + 1024));
}

TEST_CASE("Scratch: a reserve is enough for what was reserved, and nests") {
  Scratch scratch;
  scratch.reserve(100000);
  const index_t bytes = scratch.bytes();
  CHECK(bytes >= 100000);
  {
    Scratch::Frame frame(scratch);
    frame.take<char>(60000);
    scratch.reserve(50);
    frame.take<char>(30000);
  }
  CHECK(scratch.bytes() == bytes);
  {
    Scratch::Frame frame(scratch);
    char* p = frame.take<char>(1000);
    std::fill(p, p + 1000, 'p');
    scratch.reserve(400000);  // in the middle of a frame: pieces in use stay where they are
    CHECK(p[999] == 'p');
  }
  scratch.reserve(400000);
  CHECK(scratch.bytes() >= 400000);
}

TEST_CASE("Scratch: a failed allocation leaves it usable" * doctest::skip(ends_without_memory)) {
  Scratch scratch;
  {
    Scratch::Frame frame(scratch);
    frame.take<char>(100);
    CHECK_THROWS_AS(frame.take<char>(index_t{1} << 60), std::bad_alloc);
    char* p = frame.take<char>(200);
    std::fill(p, p + 200, 'x');
  }
  Scratch::Frame frame(scratch);
  char* p = frame.take<char>(5000);
  std::fill(p, p + 5000, 'y');
  CHECK(scratch.bytes() < 1 << 20);
}

}  // namespace
}  // namespace sparsegrad
