// Attention's kernels. A block takes some rows of one sequence and head; what it has of P stays in its shared memory.
#pragma once

#include <cmath>
#include <string>

#include <sparsegrad/core/error.hpp>

#include "../attention_shape.hpp"
#include "../placed_batch.hpp"
#include "mask.cuh"

namespace sparsegrad::finetune::device {

/// What shared memory has room for.
struct AttentionLimits {
  static constexpr index_t head_size = 128;
  static constexpr index_t length = 512;
};

/// Where a block works: blocks are numbered by sequence, head and piece of `tile` rows; sequences shorter than the
/// longest leave some of them without rows.
struct AttentionGrid {
  const std::int32_t* offsets;
  const std::int32_t* lengths;
  index_t sequences, heads, head_size, tokens, pieces;

  AttentionGrid(const AttentionShape& shape, const BatchArrays& batch, index_t tile)
      : offsets(batch.offsets),
        lengths(batch.lengths),
        sequences(batch.sequences),
        heads(shape.heads),
        head_size(shape.head_size),
        tokens(batch.tokens),
        pieces((batch.longest + tile - 1) / tile) {}

  index_t blocks() const { return sequences * heads * pieces; }

  struct Place {
    index_t first;   ///< row of the sequence's first token
    index_t rows;    ///< of the sequence, with padding: its queries
    index_t keys;    ///< without padding
    index_t column;  ///< of the head
    index_t sums;    ///< of the head and sequence in log_sums; also names the rows of dropout's mask
    index_t begin;   ///< first row of the block within the sequence
  };
  SPARSEGRAD_HOST_DEVICE Place place(index_t block, index_t tile) const {
    const index_t piece = block % pieces;
    const index_t head = block / pieces % heads;
    const index_t s = block / pieces / heads;
    const index_t first = offsets[s];
    return {first, offsets[s + 1] - first, lengths[s], head * head_size, head * tokens + first, piece * tile};
  }
  SPARSEGRAD_HOST_DEVICE index_t hidden() const { return heads * head_size; }
};

/// qkv += bias; the queries times scale.
template <class T>
struct AddQkvBias {
  using C = compute_t<T>;
  const C* bias;
  C scale;
  index_t hidden;
  Array2<T> qkv;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    qkv(i, j) = static_cast<T>((qkv(i, j) + bias[j]) * (j < hidden ? scale : C(1)));
  }
};

/// tile[r][c] = x(row + r, column + c) for r < rows, c < size; zeros in the other rows. By the threads of a block.
template <class T, int Tile, int Width>
SPARSEGRAD_HOST_DEVICE void load_tile(const Array2<const T>& x, index_t row, index_t column, index_t rows,
                                      index_t size, int thread, int threads, T (&tile)[Tile][Width]) {
  for (index_t e = thread; e < Tile * size; e += threads) {
    const index_t r = e / size;
    const index_t c = e % size;
    tile[r][c] = r < rows ? x(row + r, column + c) : T(0);
  }
}

/// sums[i] = sum_c a(i, c) b(j, c) for the tile's rows i in shared memory and row b of global memory.
template <class T, int Tile, int Width>
SPARSEGRAD_HOST_DEVICE void tile_products(const T (&a)[Tile][Width], const T* b, index_t n, T (&sums)[Tile]) {
  for (int i = 0; i < Tile; ++i)
    sums[i] = T(0);
  for (index_t c = 0; c < n; ++c) {
    const T right = b[c];
    for (int i = 0; i < Tile; ++i)
      sums[i] += a[i][c] * right;
  }
}

/// to(begin + i, c) = factor(i) sum_j p[i][j] x(j, c) for i < rows, c < head_size, by the threads of a block.
template <class T, int Tile, int Width, class F>
SPARSEGRAD_HOST_DEVICE void tile_sums(const T (&p)[Tile][Width], index_t count, const T* x, index_t x_stride,
                                      index_t head_size, index_t rows, int thread, int threads, T* to,
                                      index_t to_stride, const F& factor) {
  constexpr int unrolled = 4;
  const int lanes = threads / static_cast<int>(head_size);
  const int lane = thread / static_cast<int>(head_size);
  const index_t c = thread % static_cast<int>(head_size);
  if (lane >= lanes) return;
  for (int first = lane * unrolled; first < Tile; first += lanes * unrolled) {
    T sums[unrolled] = {};
    for (index_t j = 0; j < count; ++j) {
      const T right = x[j * x_stride + c];
      for (int i = 0; i < unrolled; ++i)
        sums[i] += p[first + i][j] * right;
    }
    for (int i = 0; i < unrolled; ++i) {
      if (first + i < rows) to[(first + i) * to_stride + c] = factor(first + i) * sums[i];
    }
  }
}

/// O = dropout(softmax(q k^T)) v and the logarithms of the rows' sums.
template <class T>
struct AttentionForward {
  static constexpr int tile = 64 / static_cast<int>(sizeof(T));
  static constexpr int threads = 128;
  static constexpr int lanes = threads / tile;  ///< threads of a row where rows are summed
  static constexpr int phases = 6;
  struct Shared {
    T q[tile][AttentionLimits::head_size];
    T p[tile][AttentionLimits::length + lanes];  // threads of different rows read different banks
    T most[tile][lanes];
    T sum[tile][lanes];
    T factor[tile];
  };

  AttentionGrid grid;
  Dropout<T> dropout;
  Array2<const T> qkv;
  Array2<T> out;
  T* log_sums;

  index_t blocks() const { return grid.blocks(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const AttentionGrid::Place at = grid.place(block, tile);
    if (at.begin >= at.rows) return;
    const index_t rows = at.rows - at.begin < tile ? at.rows - at.begin : tile;
    const index_t size = grid.head_size;
    const int i = thread / lanes;
    const int lane = thread % lanes;
    if constexpr (P == 0) {
      load_tile(qkv, at.first + at.begin, at.column, rows, size, thread, threads, shared.q);
    } else if constexpr (P == 1) {
      for (index_t j = thread; j < at.keys; j += threads) {
        T scores[tile];
        tile_products(shared.q, &qkv(at.first + j, grid.hidden() + at.column), size, scores);
        for (int r = 0; r < tile; ++r)
          shared.p[r][j] = scores[r];
      }
    } else if constexpr (P == 2) {
      T most = shared.p[i][0];
      for (index_t j = lane; j < at.keys; j += lanes)
        most = shared.p[i][j] > most ? shared.p[i][j] : most;
      shared.most[i][lane] = most;
    } else if constexpr (P == 3) {
      const T most = largest(shared.most[i]);
      const auto mask = dropout.row(at.sums + at.begin + i);
      T sum = 0;
      for (index_t j = lane; j < at.keys; j += lanes) {
        const T p = std::exp(shared.p[i][j] - most);
        sum += p;
        shared.p[i][j] = dropout.on() ? p * mask.at(j) : p;
      }
      shared.sum[i][lane] = sum;
    } else if constexpr (P == 4) {
      if (lane > 0) return;
      T sum = 0;
      for (int e = 0; e < lanes; ++e)
        sum += shared.sum[i][e];
      shared.factor[i] = T(1) / sum;
      if (i < rows) log_sums[at.sums + at.begin + i] = largest(shared.most[i]) + std::log(sum);
    } else {
      tile_sums(shared.p, at.keys, &qkv(at.first, 2 * grid.hidden() + at.column), qkv.stride, size, rows,
                thread, threads, &out(at.first + at.begin, at.column), out.stride, Factors{shared.factor});
    }
  }

 private:
  struct Factors {
    const T* factor;
    SPARSEGRAD_HOST_DEVICE T operator()(int i) const { return factor[i]; }
  };
  SPARSEGRAD_HOST_DEVICE static T largest(const T (&most)[lanes]) {
    T best = most[0];
    for (int e = 1; e < lanes; ++e)
      best = most[e] > best ? most[e] : best;
    return best;
  }
};

/// delta[head tokens + i] = sum_c out(i, c) d_out(i, c) over the head's columns: sum_j P_ij dP_ij.
template <class T>
struct AttentionDelta {
  index_t head_size, tokens;
  Array2<const T> out;
  Array2<const T> d_out;
  T* delta;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t head, index_t i) const {
    T sum = 0;
    for (index_t c = head * head_size; c < (head + 1) * head_size; ++c)
      sum += out(i, c) * d_out(i, c);
    delta[head * tokens + i] = sum;
  }
};

template <class T>
struct ConstantFactor {
  T value;
  SPARSEGRAD_HOST_DEVICE T operator()(int) const { return value; }
};

/// Of some queries: dS = P (mask dP - delta), dQ = scale dS K.
template <class T>
struct AttentionBackwardQueries {
  static constexpr int tile = 32 / static_cast<int>(sizeof(T));
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  struct Shared {
    T q[tile][AttentionLimits::head_size];
    T d_o[tile][AttentionLimits::head_size];
    T ds[tile][AttentionLimits::length];
  };

  AttentionGrid grid;
  Dropout<T> dropout;
  T scale;
  Array2<const T> qkv;
  const T* log_sums;
  const T* delta;
  Array2<const T> d_out;
  Array2<T> d_qkv;

  index_t blocks() const { return grid.blocks(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const AttentionGrid::Place at = grid.place(block, tile);
    if (at.begin >= at.rows) return;
    const index_t rows = at.rows - at.begin < tile ? at.rows - at.begin : tile;
    const index_t size = grid.head_size;
    const index_t row = at.first + at.begin;
    if constexpr (P == 0) {
      load_tile(qkv, row, at.column, rows, size, thread, threads, shared.q);
      load_tile(d_out, row, at.column, rows, size, thread, threads, shared.d_o);
    } else if constexpr (P == 1) {
      for (index_t j = thread; j < at.keys; j += threads) {
        const T* key = &qkv(at.first + j, grid.hidden() + at.column);
        T scores[tile];
        T products[tile];
        tile_products(shared.q, key, size, scores);
        tile_products(shared.d_o, key + grid.hidden(), size, products);
        for (int r = 0; r < tile; ++r) {
          const index_t place = at.sums + at.begin + r;
          shared.ds[r][j] = r < rows ? std::exp(scores[r] - log_sums[place]) *
                                           (products[r] * multiplier(dropout, place, j) - delta[place])
                                     : T(0);
        }
      }
    } else {
      tile_sums(shared.ds, at.keys, &qkv(at.first, grid.hidden() + at.column), qkv.stride, size, rows, thread,
                threads, &d_qkv(row, at.column), d_qkv.stride, ConstantFactor<T>{scale});
    }
  }
};

/// Of some keys: dV = (mask P)^T dO, dK = dS^T Q; zeros for keys that are padding.
template <class T>
struct AttentionBackwardKeys {
  static constexpr int tile = 32 / static_cast<int>(sizeof(T));
  static constexpr int threads = 128;
  static constexpr int phases = 3;
  struct Shared {
    T k[tile][AttentionLimits::head_size];
    T v[tile][AttentionLimits::head_size];
    T p[tile][AttentionLimits::length];
    T ds[tile][AttentionLimits::length];
  };

  AttentionGrid grid;
  Dropout<T> dropout;
  Array2<const T> qkv;
  const T* log_sums;
  const T* delta;
  Array2<const T> d_out;
  Array2<T> d_qkv;

  index_t blocks() const { return grid.blocks(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const AttentionGrid::Place at = grid.place(block, tile);
    if (at.begin >= at.rows) return;
    const index_t rows = at.rows - at.begin < tile ? at.rows - at.begin : tile;
    const index_t size = grid.head_size;
    const index_t row = at.first + at.begin;
    if constexpr (P == 0) {
      const index_t real = at.keys - at.begin;  // what is padding has no part in any sum
      load_tile(qkv, row, grid.hidden() + at.column, real, size, thread, threads, shared.k);
      load_tile(qkv, row, 2 * grid.hidden() + at.column, real, size, thread, threads, shared.v);
    } else if constexpr (P == 1) {
      for (index_t i = thread; i < at.rows; i += threads) {
        const index_t place = at.sums + i;
        T scores[tile];
        T products[tile];
        tile_products(shared.k, &qkv(at.first + i, at.column), size, scores);
        tile_products(shared.v, &d_out(at.first + i, at.column), size, products);
        const auto mask = dropout.row(place);
        for (int r = 0; r < tile; ++r) {
          const bool real = at.begin + r < at.keys;
          const T p = real ? std::exp(scores[r] - log_sums[place]) : T(0);
          const T kept = dropout.on() ? mask.at(at.begin + r) : T(1);
          shared.p[r][i] = p * kept;
          shared.ds[r][i] = p * (products[r] * kept - delta[place]);
        }
      }
    } else {
      tile_sums(shared.p, at.rows, &d_out(at.first, at.column), d_out.stride, size, rows, thread, threads,
                &d_qkv(row, 2 * grid.hidden() + at.column), d_qkv.stride, ConstantFactor<T>{T(1)});
      tile_sums(shared.ds, at.rows, &qkv(at.first, at.column), qkv.stride, size, rows, thread, threads,
                &d_qkv(row, grid.hidden() + at.column), d_qkv.stride, ConstantFactor<T>{T(1)});
    }
  }
};

/// Throws ShapeError when the kernels have no room for heads of this size or rows of this length.
inline void require_attention_room(const AttentionShape& shape, index_t longest) {
  if (shape.head_size <= AttentionLimits::head_size && longest <= AttentionLimits::length) return;
  throw ShapeError("attention on the GPU: heads of size " + std::to_string(shape.head_size) +
                   " and sequences of up to " + std::to_string(longest) + " tokens, expected at most " +
                   std::to_string(AttentionLimits::head_size) + " and " +
                   std::to_string(AttentionLimits::length));
}

}  // namespace sparsegrad::finetune::device
