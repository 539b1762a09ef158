// Sums of a matrix's columns in a fixed order and without atomics: chunks of rows first, then the chunks.
#pragma once

#include "kernels.cuh"
#include "packs.cuh"

namespace sparsegrad::finetune::device {

/// partial(c, j) = sum of column j over the rows of chunk c. source(row, pack) gives the N columns of a row from
/// pack N on, and may write what it gives: a pass over a matrix so sums what it has in its registers anyway.
template <class C, int N, class Source>
struct ColumnSumChunks {
  static constexpr int across = 32;  ///< packs of a row that a block takes
  static constexpr int lanes = 8;    ///< rows that it takes at a time
  static constexpr int threads = across * lanes;
  static constexpr int phases = 2;
  static constexpr index_t width = across * N;
  static constexpr index_t chunk = 64;
  struct Shared {
    C sum[lanes][width];
  };

  Source source;
  index_t rows, cols;  ///< cols: a multiple of N
  C* partial;

  index_t chunks() const { return (rows + chunk - 1) / chunk; }
  index_t blocks() const { return chunks() * ((cols + width - 1) / width); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t wide = (cols + width - 1) / width;
    const index_t part = block / wide;
    const index_t column = block % wide * width;
    if constexpr (P == 0) {
      const int lane = thread / across;
      const int x = thread % across * N;
      if (column + x >= cols) return;
      const index_t end = (part + 1) * chunk < rows ? (part + 1) * chunk : rows;
      Pack<C, N> sum{};
      for (index_t row = part * chunk + lane; row < end; row += lanes) {
        const Pack<C, N> v = source(row, (column + x) / N);
        for (int i = 0; i < N; ++i)
          sum.x[i] += v.x[i];
      }
      for (int i = 0; i < N; ++i)
        shared.sum[lane][x + i] = sum.x[i];
    } else {
      for (int x = thread; x < width && column + x < cols; x += threads) {
        C sum = 0;
        for (int lane = 0; lane < lanes; ++lane)
          sum += shared.sum[lane][x];
        partial[part * cols + column + x] = sum;
      }
    }
  }
};

/// sums[s][j] += sum over the chunks c of partial(c, s cols + j), in double; nothing where sums[s] is null.
template <class C, int Sets>
struct AddChunks {
  static constexpr int width = 32;
  static constexpr int lanes = 16;
  static constexpr int threads = width * lanes;
  static constexpr int phases = 2;
  struct Shared {
    double sum[lanes][width];
  };

  const C* partial;
  index_t chunks, cols;
  C* sums[Sets];

  index_t blocks() const { return Sets * ((cols + width - 1) / width); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t wide = (cols + width - 1) / width;
    const index_t set = block / wide;
    const int x = thread % width;
    const int lane = thread / width;
    const index_t j = block % wide * width + x;
    C* const to = sums[set];
    if (j >= cols || to == nullptr) return;
    if constexpr (P == 0) {
      double sum = 0;
      for (index_t c = lane; c < chunks; c += lanes)
        sum += static_cast<double>(partial[(c * Sets + set) * cols + j]);
      shared.sum[lane][x] = sum;
    } else if (lane == 0) {
      double sum = 0;
      for (int other = 0; other < lanes; ++other)
        sum += shared.sum[other][x];
      to[j] = static_cast<C>(static_cast<double>(to[j]) + sum);
    }
  }
};

/// sums[j] += what source gives for column j of all rows (see ColumnSumChunks).
template <class System, int N, class C, class Source>
void add_sums_by_column(typename System::Context& ctx, const Source& source, index_t rows, index_t cols,
                        C* sums) {
  if (rows == 0 || cols == 0) return;
  auto frame = ctx.frame();
  ColumnSumChunks<C, N, Source> chunks{source, rows, cols, nullptr};
  chunks.partial = frame.template take<C>(chunks.chunks() * cols);
  System::launch(ctx, chunks.blocks(), chunks);
  const AddChunks<C, 1> total{chunks.partial, chunks.chunks(), cols, {sums}};
  System::launch(ctx, total.blocks(), total);
}

/// A matrix's own entries.
template <class T, int N>
struct MatrixPacks {
  Array2<const T> a;
  SPARSEGRAD_HOST_DEVICE Pack<compute_t<T>, N> operator()(index_t row, index_t pack) const {
    return load_pack<T, N>(&a(row, pack * N));
  }
};

/// sums[j] += sum_i a(i, j); null: nothing.
template <class System, class T>
void add_sums_by_column(typename System::Context& ctx, MatrixView<const T> a, compute_t<T>* sums) {
  if (sums == nullptr) return;
  with_packs(
      a.cols,
      [&](auto n, index_t) {
        add_sums_by_column<System, n()>(ctx, MatrixPacks<T, n()>{a}, a.rows, a.cols, sums);
      },
      a);
}

}  // namespace sparsegrad::finetune::device
