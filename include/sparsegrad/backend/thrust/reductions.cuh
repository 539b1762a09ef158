// Sums and searches over a matrix.
#pragma once

#include <cmath>
#include <limits>

#include <thrust/functional.h>
#include <thrust/transform_reduce.h>

#include "../../core/step_guard.hpp"
#include "block_sums.cuh"
#include "elements.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// partial(c, j) = sum of source(i, j) over the rows i of chunk c, in double and in a fixed order.
template <class Source>
struct ColumnSumChunks {
  static constexpr int width = 32;
  static constexpr int lanes = 8;
  static constexpr int threads = width * lanes;
  static constexpr int phases = 2;
  static constexpr index_t chunk = 256;
  struct Shared {
    double sum[lanes][width];
  };

  Source source;
  index_t rows, cols;
  double* partial;

  index_t chunks() const { return (rows + chunk - 1) / chunk; }
  index_t blocks() const { return chunks() * ((cols + width - 1) / width); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t across = (cols + width - 1) / width;
    const index_t part = block / across;
    const int x = thread % width;
    const int lane = thread / width;
    const index_t j = block % across * width + x;
    if (j >= cols) return;
    if constexpr (P == 0) {
      const index_t end = (part + 1) * chunk < rows ? (part + 1) * chunk : rows;
      double sum = 0;
      for (index_t i = part * chunk + lane; i < end; i += lanes)
        sum += static_cast<double>(source(i, j));
      shared.sum[lane][x] = sum;
    } else if (lane == 0) {
      double sum = 0;
      for (int other = 0; other < lanes; ++other)
        sum += shared.sum[other][x];
      partial[part * cols + j] = sum;
    }
  }
};

template <class T>
struct AddChunks {
  const double* partial;
  index_t chunks, cols;
  T* sums;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t j) const {
    double sum = 0;
    for (index_t c = 0; c < chunks; ++c)
      sum += partial[c * cols + j];
    sums[j] = static_cast<T>(static_cast<double>(sums[j]) + sum);
  }
};

/// sums[j] += sum_i source(i, j), where Source is an Array2 or a function object like it.
template <class System, class T, class Source>
void add_column_sums(typename System::Context& ctx, const Source& source, index_t rows, index_t cols,
                     T* sums) {
  if (rows == 0 || cols == 0) return;
  auto frame = ctx.frame();
  ColumnSumChunks<Source> kernel{source, rows, cols, nullptr};
  kernel.partial = frame.template take<double>(kernel.chunks() * cols);
  System::launch(ctx, kernel.blocks(), kernel);
  for_each_index<System>(ctx, cols, AddChunks<T>{kernel.partial, kernel.chunks(), cols, sums});
}

/// partial[block] = sum of squares of a block's entries of A, in double and in a fixed order.
template <class T>
struct SquareChunks {
  using Sums = BlockSums<double>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 3;
  static constexpr index_t chunk = 16 * threads;
  struct Shared {
    Sums sums;
  };

  const T* x;
  index_t stride, cols, size;
  double* partial;

  /// Contiguous rows count as one.
  static SquareChunks of(MatrixView<const T> a, double* partial) {
    return {a.data, a.stride, a.contiguous() ? a.size() : a.cols, a.size(), partial};
  }
  index_t blocks() const { return (size + chunk - 1) / chunk; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      const index_t end = (block + 1) * chunk < size ? (block + 1) * chunk : size;
      double sum = 0;
      for (index_t e = block * chunk + thread; e < end; e += threads) {
        const auto y = static_cast<double>(cols == size ? x[e] : x[e / cols * stride + e % cols]);
        sum += y * y;
      }
      shared.sums.sum[thread] = sum;
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else {
      if (thread == 0) partial[block] = shared.sums.scan_groups(0);
    }
  }
};

/// One block: *sum = partial[0] + ... + partial[count - 1], in a fixed order.
struct AddPartials {
  using Sums = BlockSums<double>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 3;
  struct Shared {
    Sums sums;
  };

  const double* partial;
  index_t count;
  double* sum;

  static constexpr index_t blocks() { return 1; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      double own = 0;
      for (index_t i = thread; i < count; i += threads)
        own += partial[i];
      shared.sums.sum[thread] = own;
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else {
      if (thread == 0) *sum = shared.sums.scan_groups(0);
    }
  }
};

/// e where A holds NaN or Inf, else `none`.
template <class T>
struct NonFiniteAt {
  Array2<const T> a;
  index_t cols, none;
  SPARSEGRAD_HOST_DEVICE index_t operator()(index_t e) const {
    return magnitude_key(a(e / cols, e % cols)) >= FloatBits<T>::infinity ? e : none;
  }
};

/// One block a row: see Kernels::round_rows.
template <class T>
struct RoundRow {
  static constexpr int threads = 256;
  static constexpr int phases = 5;
  struct Shared {
    double largest[threads];
    index_t first[threads];
    double sign;
  };

  Array2<const double> x;
  Array2<T> rows;
  index_t cols;
  bool fix_signs;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      double largest = 0;
      for (index_t j = thread; j < cols; j += threads)
        if (fabs(x(block, j)) > largest) largest = fabs(x(block, j));
      shared.largest[thread] = largest;
    } else if constexpr (P == 1) {
      if (thread != 0) return;
      for (int t = 1; t < threads; ++t)
        if (shared.largest[t] > shared.largest[0]) shared.largest[0] = shared.largest[t];
    } else if constexpr (P == 2) {
      index_t j = thread;
      while (j < cols && !(fabs(x(block, j)) >= (1 - 1e-5) * shared.largest[0]))
        j += threads;
      shared.first[thread] = j;
    } else if constexpr (P == 3) {
      if (thread != 0) return;
      index_t first = cols;
      for (int t = 0; t < threads; ++t)
        if (shared.first[t] < first) first = shared.first[t];
      shared.sign = fix_signs && first < cols && x(block, first) < 0 ? -1 : 1;
    } else {
      for (index_t j = thread; j < cols; j += threads)
        rows(block, j) = static_cast<T>(shared.sign * x(block, j));
    }
  }
};

/// *mark becomes at least StepGuard::mark(number) where an array x [n] holds NaN or a number beyond
/// +-largest.
template <class T>
struct FindNonFinite {
  static constexpr int threads = 256;
  static constexpr int phases = 1;
  static constexpr index_t tile = 4 * threads;
  struct Shared {};

  const T* x;
  index_t n;
  typename FloatBits<T>::Unsigned largest;  ///< its bits
  std::uint32_t number;
  std::uint32_t* mark;

  index_t blocks() const { return (n + tile - 1) / tile; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared&) const {
    const index_t end = (block + 1) * tile < n ? (block + 1) * tile : n;
    bool found = false;
    for (index_t e = block * tile + thread; e < end; e += threads)
      found = found || FloatBits<T>::magnitude(x[e]) > largest;
    if (found) atomic_max(mark, StepGuard::mark(number));
  }
};

/// One thread: from the arrays' marks to whether the step is taken.
struct JudgeStep {
  static constexpr int threads = 32;
  static constexpr int phases = 1;
  struct Shared {};

  StepGuard guard;
  bool raise;
  StepFlag* flag;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    if (thread != 0) return;
    const std::uint32_t bad = guard.bad();
    // Only a step after one that was stopped has to ask the flag, which lies in the host's memory.
    const bool still = raise && guard.stopped() != 0 && flag->raised();
    if (raise && bad != 0 && !still) flag->layer = StepGuard::mark(bad);
    guard.stopped() = bad != 0 || still ? 1 : 0;
    guard.skipped() += guard.stopped();
    guard.bad() = 0;
  }
};

/// The contract's primitives of this kind. Those that return a number wait for it.
template <class System>
struct Reductions {
  using Context = typename System::Context;

  template <class T>
  static void column_sums(Context& ctx, MatrixView<const T> a, compute_t<T>* sums) {
    add_column_sums<System>(ctx, Array2<const T>(a), a.rows, a.cols, sums);
  }
  template <class T>
  static double squared_norm(Context& ctx, MatrixView<const T> a) {
    double sum = 0;
    squared_norm_batch<T>(ctx, std::span<const MatrixView<const T>>(&a, 1), &sum);
    return sum;
  }
  /// Two launches of as many arrays as the parameters of a launch hold, and one wait.
  template <class T>
  static void squared_norm_batch(Context& ctx, std::span<const MatrixView<const T>> arrays, double* sums) {
    if (arrays.empty()) return;
    index_t blocks = 0;
    for (const MatrixView<const T>& a : arrays)
      blocks += SquareChunks<T>::of(a, nullptr).blocks();
    auto frame = ctx.frame();
    auto* partial = frame.template take<double>(blocks);
    auto* found = frame.template take<double>(static_cast<index_t>(arrays.size()));
    index_t block = 0;
    launch_batch<System>(ctx, arrays, [&](const MatrixView<const T>& a, std::size_t) {
      const SquareChunks<T> kernel = SquareChunks<T>::of(a, partial + block);
      block += kernel.blocks();
      return kernel;
    });
    block = 0;
    launch_batch<System>(ctx, arrays, [&](const MatrixView<const T>& a, std::size_t t) {
      const index_t own = SquareChunks<T>::of(a, nullptr).blocks();
      block += own;
      return AddPartials{partial + (block - own), own, found + t};
    });
    System::fetch(ctx, found, sums, static_cast<index_t>(arrays.size()));
  }
  /// Bytes of scratch that squared_norm_batch takes on arrays of `elements` entries together.
  template <class T>
  static index_t norm_bytes(index_t arrays, index_t elements) {
    return (elements / SquareChunks<T>::chunk + 2 * arrays) * static_cast<index_t>(sizeof(double)) + 1024;
  }
  template <class T>
  static index_t first_nonfinite(Context& ctx, MatrixView<const T> a) {
    if (a.empty()) return -1;
    auto frame = ctx.frame();
    const thrust::counting_iterator<index_t> first(0);
    const index_t none = a.size();
    const index_t found = System::call([&] {
      return thrust::transform_reduce(System::policy(ctx), first, first + none,
                                      NonFiniteAt<T>{a, a.cols, none}, none, thrust::minimum<index_t>());
    });
    return found == none ? -1 : found;
  }
  template <class T>
  static index_t first_nonfinite_batch(Context& ctx, std::span<const MatrixView<const T>> arrays) {
    auto frame = ctx.frame();
    auto* mark = frame.template take<std::uint32_t>(1);
    for_each_index<System>(ctx, 1, SetElement<std::uint32_t>{0, mark});
    find_nonfinite<T>(ctx, arrays, (std::numeric_limits<T>::max)(), mark);
    const std::uint32_t found = System::fetch(ctx, mark);
    return found == 0 ? -1 : static_cast<index_t>(StepGuard::mark(found));
  }
  template <class T>
  static void guard_step(Context& ctx, std::span<const MatrixView<const T>> arrays, T largest, bool raise,
                         StepGuard guard) {
    find_nonfinite<T>(ctx, arrays, largest, guard.word);
    System::launch(ctx, 1, JudgeStep{guard, raise, ctx.step_flag_of_device()});
  }

 private:
  template <class T>
  static void find_nonfinite(Context& ctx, std::span<const MatrixView<const T>> arrays, T largest,
                             std::uint32_t* mark) {
    launch_batch<System>(ctx, arrays, [&](const MatrixView<const T>& a, std::size_t t) {
      return FindNonFinite<T>{a.data, a.size(), FloatBits<T>::magnitude(largest),
                              static_cast<std::uint32_t>(t), mark};
    });
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
