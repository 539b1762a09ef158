// Block kernels in an order that a GPU may take, which the host's own loop does not: results must not depend on it. The
// environment variable SPARSEGRAD_TEST_ORDER chooses it for a whole test program:
//   (nothing)   one block after the other, one thread after the other
//   shuffled    blocks, and the threads of every phase, in a random order
//   lockstep    64 blocks at a time go on phase by phase together, the last block and the last thread first
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/backend/thrust/block_kernel.cuh>

namespace sparsegrad::test {

enum class BlockOrder { sequential, shuffled, lockstep };

inline BlockOrder block_order() {
  static const BlockOrder order = [] {
    const char* value = std::getenv("SPARSEGRAD_TEST_ORDER");
    const std::string name = value == nullptr ? "" : value;
    if (name.empty()) return BlockOrder::sequential;
    if (name == "shuffled") return BlockOrder::shuffled;
    if (name == "lockstep") return BlockOrder::lockstep;
    throw std::invalid_argument("SPARSEGRAD_TEST_ORDER is '" + name + "', expected shuffled or lockstep");
  }();
  return order;
}

/// The numbers [0, n) in the order in which they are to be worked on.
inline std::vector<index_t> ordered(index_t n) {
  static thread_local std::mt19937_64 random(1);  // contexts may work in threads of their own
  std::vector<index_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), index_t{0});
  if (block_order() == BlockOrder::shuffled) std::shuffle(all.begin(), all.end(), random);
  if (block_order() == BlockOrder::lockstep) std::reverse(all.begin(), all.end());
  return all;
}

/// Runs blocks [0, blocks) in the order of the environment.
template <class K>
void run_blocks_in_order(index_t blocks, const K& kernel) {
  if (block_order() == BlockOrder::sequential) return backend::portable::run_blocks_on_host(blocks, kernel);
  using Shared = typename K::Shared;
  const std::size_t together = block_order() == BlockOrder::lockstep ? 64 : 1;
  const std::vector<index_t> order = ordered(blocks);
  const std::unique_ptr<Shared[]> shared(new Shared[together]);
  for (std::size_t first = 0; first < order.size(); first += together) {
    const std::size_t last = std::min(order.size(), first + together);
    std::memset(static_cast<void*>(shared.get()), 0xa5, together * sizeof(Shared));
    const auto phase = [&]<int P>() {
      for (std::size_t b = first; b < last; ++b)
        for (const index_t thread : ordered(K::threads))
          kernel.template phase<P>(order[b], static_cast<int>(thread), shared[b - first]);
    };
    [&]<int... P>(std::integer_sequence<int, P...>) {
      (phase.template operator()<P>(), ...);
    }
    (std::make_integer_sequence<int, K::phases>());
  }
}

/// f(first[e]) for e in [0, n) in the order of the environment: a kernel without blocks.
template <class Iterator, class F>
void for_each_in_order(Iterator first, index_t n, const F& f) {
  for (const index_t e : ordered(n))
    f(*(first + e));
}

}  // namespace sparsegrad::test
