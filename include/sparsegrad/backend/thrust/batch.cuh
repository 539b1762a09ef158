// Many small tasks of one kind in one launch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "block_kernel.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// Bytes that a launch's parameters take at most: 4096 on every GPU and driver.
inline constexpr std::size_t parameter_bytes = 4096;

/// Block kernels of one type as one: their blocks stand one kernel after the other. A block finds
/// out whose it is once, where there are several phases in which to use it.
template <class K>
struct Batch {
  static constexpr int threads = K::threads;
  static constexpr bool asks_once = K::phases > 1;
  static constexpr int phases = K::phases + (asks_once ? 1 : 0);
  static constexpr int capacity = static_cast<int>((parameter_bytes - 64) / (sizeof(K) + sizeof(index_t)));
  static_assert(capacity > 0);
  struct Shared {
    typename K::Shared own;
    int task;
  };

  K kernel[static_cast<std::size_t>(capacity)];
  index_t end[static_cast<std::size_t>(capacity)];  ///< of each kernel's blocks
  int count;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (!asks_once) {
      run<P>(task_of(block), block, thread, shared);
    } else if constexpr (P == 0) {
      if (thread == 0) shared.task = task_of(block);
    } else {
      run<P - 1>(shared.task, block, thread, shared);
    }
  }

 private:
  SPARSEGRAD_HOST_DEVICE int task_of(index_t block) const {
    int first = 0;  // the first task whose blocks end above this one
    for (int left = count - 1; left > 0;) {
      const int half = left / 2;
      if (block >= end[first + half]) {
        first += half + 1;
        left -= half + 1;
      } else {
        left = half;
      }
    }
    return first;
  }
  template <int P>
  SPARSEGRAD_HOST_DEVICE void run(int task, index_t block, int thread, Shared& shared) const {
    kernel[task].template phase<P>(task == 0 ? block : block - end[task - 1], thread, shared.own);
  }
};

/// Runs `kernel(task)`, which has a member blocks(), for every task: as few launches as the size of
/// their parameters allows.
template <class System, class Task, class MakeKernel>
void launch_batch(typename System::Context& ctx, std::span<const Task> tasks, const MakeKernel& kernel) {
  using K = decltype(kernel(tasks[0], std::size_t{0}));
  Batch<K> batch;
  batch.count = 0;
  index_t blocks = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const K next = kernel(tasks[t], t);
    if (next.blocks() > 0) {
      blocks += next.blocks();
      batch.kernel[batch.count] = next;
      batch.end[batch.count] = blocks;
      ++batch.count;
    }
    if (batch.count == Batch<K>::capacity || (t + 1 == tasks.size() && batch.count > 0)) {
      System::launch(ctx, blocks, batch);
      batch.count = 0;
      blocks = 0;
    }
  }
}

/// f(e) for e in [0, n), as a block kernel.
template <class F>
struct ElementBlocks {
  static constexpr int threads = 256;
  static constexpr int phases = 1;
  static constexpr index_t tile = 4 * threads;
  struct Shared {};

  F f;
  index_t n;

  index_t blocks() const { return (n + tile - 1) / tile; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared&) const {
    const index_t end = (block + 1) * tile < n ? (block + 1) * tile : n;
    for (index_t e = block * tile + thread; e < end; e += threads)
      f(e);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
