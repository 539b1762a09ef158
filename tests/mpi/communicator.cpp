// MpiCommunicator and GradientBuckets: sums, exchanges, and what goes wrong.
#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <sparsegrad/extras/gradient_buckets.hpp>
#include <sparsegrad/extras/mpi_reduce.hpp>

using namespace sparsegrad;
using namespace std::chrono_literals;

namespace {

/// Numbers whose sums are rounded: those of rank r.
template <class N>
std::vector<N> numbers(int r, std::size_t n) {
  std::vector<N> x(n);
  for (std::size_t e = 0; e < n; ++e)
    x[e] = N(static_cast<float>((e * 7919 + static_cast<std::size_t>(r) * 104729) % 1009) / 97.0F - 5.0F);
  return x;
}

template <class N>
bool same_bits(const std::vector<N>& a, const std::vector<N>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(N)) == 0);
}

template <class N, class Sum>
std::vector<N> added_in_order(int ranks, std::size_t n) {
  std::vector<Sum> sum(n);
  for (int r = 0; r < ranks; ++r) {
    const std::vector<N> x = numbers<N>(r, n);
    for (std::size_t e = 0; e < n; ++e)
      sum[e] = r == 0 ? Sum(x[e]) : sum[e] + Sum(x[e]);
  }
  std::vector<N> rounded(n);
  for (std::size_t e = 0; e < n; ++e)
    rounded[e] = N(sum[e]);
  return rounded;
}

template <class N, class Sum>
void check_sums(Communicator& comm) {
  for (const std::size_t n : {0U, 1U, 3U, 4U, 1000U, 70001U}) {
    CAPTURE(n);
    const std::vector<N> expected = added_in_order<N, Sum>(comm.size(), n);
    std::vector<N> x = numbers<N>(comm.rank(), n);
    comm.sum(std::span(x));
    CHECK(same_bits(x, expected));
    x = numbers<N>(comm.rank(), n);
    comm.sum(std::span(x), SumOrder::any, "any order");
    double worst = 0;
    for (std::size_t e = 0; e < n; ++e)
      worst = std::max(worst, std::abs(static_cast<double>(x[e]) - static_cast<double>(expected[e])));
    CHECK(worst < 1e-4);
    comm.require_equal(hash_bytes(std::as_bytes(std::span(x))), "the sum in any order");
  }
}

/// The text of the CommunicationError, or other error, that f throws.
template <class E = CommunicationError, class F>
std::string failure(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("mpi: sums in the order of the ranks have the bits of one process that adds in that order") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  check_sums<float, float>(comm);
  check_sums<double, double>(comm);
  check_sums<bfloat16, float>(comm);
}

TEST_CASE("mpi: many sums at once end in any order of waiting") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  std::vector<std::vector<float>> x;
  std::vector<Communicator::Ticket> tickets;
  for (std::size_t i = 0; i < 20; ++i) {
    x.push_back(numbers<float>(comm.rank(), 100 + i));
    tickets.push_back(
        comm.start_sum(std::span(x.back()), i % 3 == 0 ? SumOrder::any : SumOrder::rank, "one of many"));
    comm.poll();
  }
  for (std::size_t i = 20; i-- > 0;) {
    comm.wait(tickets[i]);
    const std::vector<float> expected = added_in_order<float, float>(comm.size(), 100 + i);
    for (std::size_t e = 0; e < expected.size(); ++e)
      CHECK(x[i][e] == doctest::Approx(expected[e]).epsilon(1e-5));
  }
}

TEST_CASE("mpi: a progress thread ends sums while the caller computes") {
  int threads = 0;
  MPI_Query_thread(&threads);
  if (threads < MPI_THREAD_MULTIPLE) {
    CHECK_THROWS_AS(MpiCommunicator(MPI_COMM_WORLD, {.progress_thread = true}), StateError);
    return;
  }
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s, .progress_thread = true});
  for (int step = 0; step < 5; ++step) {
    std::vector<float> x = numbers<float>(comm.rank(), 30000);
    std::vector<double> y = numbers<double>(comm.rank(), 30000);
    const auto first = comm.start_sum(std::span(x), SumOrder::rank, "first");
    const auto second = comm.start_sum(std::span(y), SumOrder::any, "second");
    std::this_thread::sleep_for(1ms);
    comm.wait(second);
    comm.wait(first);
    CHECK(same_bits(x, added_in_order<float, float>(comm.size(), 30000)));
  }
  // Nobody calls, and the sums come in: the deadline is far.
  std::vector<float> x = numbers<float>(comm.rank(), 100);
  const auto before = comm.traffic().waited_seconds;
  const auto sum = comm.start_sum(std::span(x), SumOrder::rank, "alone");
  const std::vector<float> expected = added_in_order<float, float>(comm.size(), 100);
  const volatile float* first = x.data();
  for (int turn = 0; turn < 10000 && first[0] != expected[0]; ++turn)
    std::this_thread::sleep_for(1ms);
  CHECK(first[0] == expected[0]);
  CHECK(comm.traffic().waited_seconds == before);
  comm.wait(sum);
  CHECK(same_bits(x, expected));
}

TEST_CASE("mpi: bytes are gathered, broadcast, counted") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  const std::string mine(static_cast<std::size_t>(comm.rank()) * 3, static_cast<char>('a' + comm.rank()));
  const auto all = comm.gather(std::as_bytes(std::span(mine)), "names");
  REQUIRE(all.size() == static_cast<std::size_t>(comm.size()));
  for (std::size_t r = 0; r < all.size(); ++r) {
    CHECK(all[r].size() == 3 * r);
    CHECK((r == 0 || static_cast<char>(all[r][0]) == static_cast<char>('a' + static_cast<int>(r))));
  }
  for (int root = 0; root < comm.size(); ++root) {
    std::vector<float> x = numbers<float>(comm.rank(), 1001);
    comm.broadcast(std::as_writable_bytes(std::span(x)), root, "weights");
    CHECK(same_bits(x, numbers<float>(root, 1001)));
  }
  comm.barrier("the end");

  MpiCommunicator counted(MPI_COMM_WORLD, {.timeout = 20s});
  std::vector<float> x(1200);
  counted.sum(std::span(x));
  CHECK(counted.traffic().sums == 1);
  CHECK(counted.traffic().payload_bytes == 4800);
  CHECK(counted.traffic().sent_bytes == 2 * 4800 * (counted.size() - 1) / counted.size());
}

TEST_CASE("mpi: buckets hold several gradients, in each wire type") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  const double epsilon[] = {1e-6, 1e-6, 1e-2};
  for (const WireType wire : {WireType::same, WireType::float32, WireType::bfloat16}) {
    for (const index_t bytes : {1, 1000, 1 << 20}) {
      GradientBuckets<double> buckets(comm, {.bucket_bytes = bytes, .wire = wire});
      for (int step = 0; step < 2; ++step) {
        std::vector<std::vector<double>> x;
        std::vector<GradientBuckets<double>::Slot> slots;
        for (std::size_t i = 0; i < 7; ++i) {
          x.push_back(numbers<double>(comm.rank(), 10 * i));
          slots.push_back(buckets.start(std::span<const double>(x.back())));
        }
        CHECK(buckets.in_flight() == 7);
        for (std::size_t i = 0; i < 7; ++i) {
          buckets.wait(slots[i], std::span(x[i]));
          const std::vector<double> expected = added_in_order<double, double>(comm.size(), 10 * i);
          for (std::size_t e = 0; e < x[i].size(); ++e)
            CHECK(std::abs(x[i][e] - expected[e]) <= epsilon[static_cast<int>(wire)] * 20 * comm.size());
          if (wire == WireType::same) CHECK(same_bits(x[i], expected));
        }
        CHECK(buckets.in_flight() == 0);
      }
      // A window: the first is awaited while others go on, and its bucket is used again.
      std::deque<GradientBuckets<double>::Slot> window;
      for (std::size_t i = 0; i < 30; ++i) {
        window.push_back(buckets.start(std::span<const double>(numbers<double>(comm.rank(), 100 + i))));
        if (window.size() < 4) continue;
        std::vector<double> sum(100 + i - 3);
        buckets.wait(window.front(), std::span(sum));
        window.pop_front();
        if (wire == WireType::same)
          CHECK(same_bits(sum, added_in_order<double, double>(comm.size(), sum.size())));
        if (bytes == 1) CHECK(window.back().bucket < 8);
      }
      buckets.abandon();
      (void)buckets.start(std::span<const double>(numbers<double>(comm.rank(), 300)));
      buckets.abandon();
      CHECK(buckets.in_flight() == 0);
    }
  }
  CHECK_THROWS_AS(GradientBuckets<float>(comm, {.bucket_bytes = 0}), ValueError);
}

TEST_CASE("mpi: what was started is awaited once") {
  const auto check_once = [](Communicator& comm) {
    std::vector<float> x(100, 1.0F);
    const auto first = comm.start_sum(std::span(x), SumOrder::rank, "first");
    std::vector<float> y(100, 2.0F);
    const auto second = comm.start_sum(std::span(y), SumOrder::any, "second");
    comm.wait(second);
    const auto again = [&](Communicator::Ticket ticket) {
      return failure<StateError>([&] { comm.wait(ticket); });
    };
    CHECK(again(second) == "wait: ticket 2 was awaited already, or given up; each is awaited once");
    CHECK(again(0) == "wait: ticket 0 was never started; 2 were, from 1");
    CHECK(again(3) == "wait: ticket 3 was never started; 2 were, from 1");
    comm.wait(first);
    CHECK(contains(again(first), "ticket 1 was awaited already"));
    comm.sum(std::span(x));  // it is as useful as before
    CHECK(x[99] == static_cast<float>(comm.size() * comm.size()));

    GradientBuckets<float> buckets(comm);
    const auto up = buckets.start(std::span<const float>(y));
    const auto down = buckets.start(std::span<const float>(y));
    buckets.wait(up, std::span(x));
    CHECK(contains(failure<StateError>([&] { buckets.wait(up, std::span(x)); }),
                   "wait: gradient 1 was awaited already"));
    CHECK(buckets.in_flight() == 1);
    buckets.wait(down, std::span(x));
    CHECK(x == std::vector<float>(100, static_cast<float>(2 * comm.size() * comm.size())));
    const auto given_up = buckets.start(std::span<const float>(y));
    buckets.abandon();
    CHECK(contains(failure<StateError>([&] { buckets.wait(given_up, std::span(x)); }), "given up"));
    CHECK(contains(failure<StateError>([&] {
                     buckets.wait({0, 0, 100, 0}, std::span(x));
                   }),
                   "gradient 0 was never started; 3 were"));
  };
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  check_once(comm);
  SingleRank alone;
  check_once(alone);
}

TEST_CASE("mpi: the longest timeout there is does not end a wait at once") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = std::chrono::milliseconds::max()});
  if (comm.rank() == 0) std::this_thread::sleep_for(20ms);
  comm.barrier("all come, one later");
}

TEST_CASE("mpi: ranks that must be equal and are not are named") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s});
  if (comm.size() == 1) return comm.require_equal(3, "options");
  comm.require_equal(3, "options");
  const int other = comm.size() - 1;
  const std::string text =
      failure([&] { comm.require_equal(comm.rank() == other ? 4U : 3U, "options of the run"); });
  CHECK(contains(text,
                 "options of the run: rank " + std::to_string(other) + " has something else than rank 0"));
  CHECK(contains(text, "rank " + std::to_string(comm.rank()) + " of " + std::to_string(comm.size())));
  comm.barrier("all go on");
}

TEST_CASE("mpi: a rank that does not come is named within the timeout") {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) return;
  // Of MPI's own sum nobody knows whose part is missing; the ranks are asked in both cases.
  const SumOrder order = size == 3 ? SumOrder::any : SumOrder::rank;
  {
    // Rank 0 asks while the others still wait; they answer.
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = rank == 0 ? 150ms : 1200ms, .grace = 800ms});
    std::vector<float> x(1000, 1.0F);
    if (rank == 1) {
      std::this_thread::sleep_for(2200ms);
    } else {
      const std::string text = failure([&] { comm.sum(std::span(x), order, "gradients of step 7"); });
      CHECK(contains(text, rank == 0 ? "gradients of step 7: rank 1 has not come" : "1 ha"));
      CHECK(contains(text, "rank " + std::to_string(rank) + " of "));
      // Afterwards every call says so.
      CHECK(failure([&] { comm.poll(); }) == text);
      CHECK(failure([&] { comm.barrier("later"); }) == text);
    }
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST_CASE("mpi: calls that differ between ranks end in an error on all of them") {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) return;
  {
    MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 20s, .grace = 400ms});
    std::vector<float> x(comm.rank() == 1 ? 500 : 1000);
    const std::string text = failure([&] { comm.sum(std::span(x), SumOrder::rank, "layer 3"); });
    CHECK(contains(text, "layer 3"));
    CHECK(contains(text, "rank "));
    // Where MPI notices it: rank 1 has room for its own, smaller parts.
    if (comm.rank() == 1) {
      CHECK_MESSAGE(contains(text, "has sent more than the "), text);
      CHECK_MESSAGE(contains(text, "ranks disagree about sizes"), text);
      if (size == 2) CHECK_MESSAGE(contains(text, "the 1000 bytes that this rank expects"), text);
    }
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST_CASE("mpi: arguments out of range are refused before anything is sent") {
  MpiCommunicator comm(MPI_COMM_WORLD);
  std::vector<std::byte> small(3);
  CHECK_THROWS_AS(comm.start_gather(small, std::span(small).first(0), "x"), ValueError);
  CHECK_THROWS_AS(comm.broadcast(small, comm.size(), "x"), ValueError);
  CHECK_THROWS_AS(MpiCommunicator(MPI_COMM_WORLD, {.timeout = 0ms}), ValueError);
  comm.barrier("still whole");
}

TEST_CASE("a single rank needs no MPI") {
  SingleRank comm;
  std::vector<float> x = {1, 2};
  comm.sum(std::span(x));
  CHECK(x == std::vector<float>{1, 2});
  comm.require_equal(5, "options");
  CHECK(comm.gather(std::as_bytes(std::span(x)), "x")[0].size() == 8);
  GradientBuckets<float> buckets(comm);
  const auto slot = buckets.start(std::span<const float>(x));
  buckets.wait(slot, std::span(x));
  CHECK(x == std::vector<float>{1, 2});
}
