// What the layers' kernels are made of, for a GPU and for Thrust's host system.
//
// A block kernel K, which `Backend::System::launch(ctx, blocks, kernel)` runs, is a copyable object with
//     static constexpr int threads              threads of a block
//     static constexpr int phases               every thread ends one before any begins the next
//     struct Shared                             memory that a block's threads share, uninitialised
//     template <int P> void phase(index_t block, int thread, Shared&) const
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>
#include <sparsegrad/core/view.hpp>

namespace sparsegrad::finetune::device {

/// A matrix inside a kernel: MatrixView without the checks that only a host can make.
template <class T>
struct Array2 {
  T* data;
  index_t stride;

  Array2(MatrixView<T> a) : data(a.data), stride(a.stride) {}  // NOLINT(google-explicit-constructor)
  SPARSEGRAD_HOST_DEVICE T& operator()(index_t i, index_t j) const { return data[i * stride + j]; }
};

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

/// Calls f(e) for e in [0, n). F is a copyable function object with a const call operator for both sides.
template <class System, class F>
void launch_over_indices(typename System::Context& ctx, index_t n, const F& f) {
  if (n <= 0) return;
  const ElementBlocks<F> kernel{f, n};
  System::launch(ctx, kernel.blocks(), kernel);
}

/// f(e / cols, e % cols). Divisions of 64 bits cost a GPU some ten times those of 32.
template <class F>
struct ByRowAndColumn {
  F f;
  index_t cols;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    index_t row;
    if (e <= INT32_MAX && cols <= INT32_MAX) {
      row = static_cast<index_t>(static_cast<std::uint32_t>(e) / static_cast<std::uint32_t>(cols));
    } else {
      row = e / cols;
    }
    f(row, e - row * cols);
  }
};

/// Calls f(i, j) for all entries of a rows x cols matrix.
template <class System, class F>
void launch_over_entries(typename System::Context& ctx, index_t rows, index_t cols, const F& f) {
  launch_over_indices<System>(ctx, rows * cols, ByRowAndColumn<F>{f, cols});
}

/// Block kernels of one type as one: their blocks stand one kernel after the other. Launch parameters take at most 4096
/// bytes on every GPU and driver.
template <class K>
struct KernelBatch {
  static constexpr int threads = K::threads;
  static constexpr int phases = K::phases;
  static constexpr int capacity = static_cast<int>((4096 - 64) / (sizeof(K) + sizeof(index_t)));
  static_assert(capacity > 0);
  using Shared = typename K::Shared;

  K kernel[capacity];
  index_t end[capacity];  ///< of each kernel's blocks
  int count;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const int task = task_of(block);
    kernel[task].template phase<P>(task == 0 ? block : block - end[task - 1], thread, shared);
  }

 private:
  /// The first task whose blocks end above this one.
  SPARSEGRAD_HOST_DEVICE int task_of(index_t block) const {
    int first = 0;
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
};

/// Runs `kernel(task, number)`, which has a member blocks(), for every task: as few launches as the size of their
/// parameters allows.
template <class System, class Task, class MakeKernel>
void launch_tasks(typename System::Context& ctx, std::span<const Task> tasks, const MakeKernel& kernel) {
  using K = decltype(kernel(tasks[0], std::size_t{0}));
  KernelBatch<K> batch;
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
    if (batch.count == KernelBatch<K>::capacity || (t + 1 == tasks.size() && batch.count > 0)) {
      System::launch(ctx, blocks, batch);
      batch.count = 0;
      blocks = 0;
    }
  }
}

}  // namespace sparsegrad::finetune::device
