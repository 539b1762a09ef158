// backend::ThrustHost with its kernels in the order of SPARSEGRAD_TEST_ORDER (block_orders.hpp).
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <thrust/for_each.h>

#include <sparsegrad/backend/thrust_host.cuh>

#include "block_orders.hpp"

namespace sparsegrad::test {

struct OrderedPolicy : thrust::cpp::execution_policy<OrderedPolicy> {};

/// Thrust finds it by the policy's type.
template <class Iterator, class Size, class F>
Iterator for_each_n(OrderedPolicy&, Iterator first, Size n, F f) {
  if (block_order() == BlockOrder::sequential) return thrust::for_each_n(thrust::cpp::par, first, n, f);
  for_each_in_order(first, static_cast<index_t>(n), f);
  return first + n;
}

struct OrderedSystem : backend::portable::HostSystem {
  static OrderedPolicy policy(Context&) { return {}; }
  template <class K>
  static void launch(Context&, index_t blocks, const K& kernel) {
    run_blocks_in_order(blocks, kernel);
  }
};

struct OrderedThrustHost : backend::portable::BasicThrustHost<OrderedSystem> {};

static_assert(BatchedBackend<OrderedThrustHost> && LowPrecisionBackend<OrderedThrustHost, bfloat16> &&
              LowPrecisionBackend<OrderedThrustHost, float16>);

/// Notes who ran: one step a thread in each of two phases.
struct NotedBlocks {
  static constexpr int threads = 4;
  static constexpr int phases = 2;
  struct Shared {};
  struct Turn {
    int phase;
    index_t block;
    int thread;
    bool operator==(const Turn&) const = default;
  };

  std::vector<Turn>* turns;

  template <int P>
  void phase(index_t block, int thread, Shared&) const {
    turns->push_back({P, block, thread});
  }
};

// Without it a suite that ignored the environment would pass for one that ran in another order.
TEST_CASE("the suite's kernels run in the order of the environment") {
  OrderedSystem::Context ctx(1);
  std::vector<NotedBlocks::Turn> turns, in_turn, backwards;
  OrderedSystem::launch(ctx, 3, NotedBlocks{&turns});
  for (const index_t block : {0, 1, 2})
    for (const int phase : {0, 1})
      for (const int thread : {0, 1, 2, 3})
        in_turn.push_back({phase, block, thread});
  for (const int phase : {0, 1})
    for (const index_t block : {2, 1, 0})
      for (const int thread : {3, 2, 1, 0})
        backwards.push_back({phase, block, thread});
  std::vector<index_t> elements;
  const auto note = [&](index_t e) { elements.push_back(e); };
  backend::portable::for_each_index<OrderedSystem>(ctx, 100, note);
  const bool rising = std::is_sorted(elements.begin(), elements.end());
  REQUIRE(elements.size() == 100);
  switch (block_order()) {
    case BlockOrder::sequential:
      CHECK((turns == in_turn && rising));
      break;
    case BlockOrder::shuffled:
      CHECK((turns != in_turn && turns != backwards && !rising));
      break;
    case BlockOrder::lockstep:
      CHECK((turns == backwards && elements.front() == 99 && elements.back() == 0));
      break;
  }
}

}  // namespace sparsegrad::test
