// Attention's kernels for numbers of 16 bits, whose products run on tensor cores. A block is one warp and takes 16 rows
// of one sequence and head; the other side passes by in panels of 32 rows. Scores and softmax are float's and leave the
// warp's shared memory only as sums: each kernel makes them anew.
#pragma once

#include <cmath>

#include "attention.cuh"
#include "tensor_tile.cuh"

namespace sparsegrad::finetune::device {

/// What the three kernels have in common. Width: the head's size, filled up with zeros.
template <class T, int Width>
struct TensorAttention {
  static constexpr int side = TileSum<T>::side;
  static constexpr int panel = 32;
  static constexpr int threads = 32;
  static constexpr int phases = 1;
  // Strides a few numbers longer than the rows: tiles are read without two threads meeting in one bank.
  static constexpr int row_stride = Width + 8;
  static constexpr int score_stride = panel + 4;
  static constexpr int factor_stride = panel + 8;

  using Rows = T[side][row_stride];
  using Panel = T[panel][row_stride];
  using Scores = float[side][score_stride];
  using Factors = T[side][factor_stride];
  using Mask = Dropout<float>::Row;

  AttentionGrid grid;
  Dropout<float> dropout;

  index_t blocks() const { return grid.blocks(); }

  /// to[r][c] = x(first + r, column + c) for r < rows, c < size; zeros elsewhere, also where a row beyond the last one
  /// may hold what an earlier batch left.
  template <int Count>
  SPARSEGRAD_HOST_DEVICE void stage(const Array2<const T>& x, index_t first, index_t column, index_t rows,
                                    WarpThread thread, T (&to)[Count][row_stride]) const {
    constexpr int piece = 8;
    const bool pieces = grid.head_size % piece == 0;  // then they are aligned to their 16 bytes
    for (int e = thread.first; e < Count * (Width / piece); e += thread.step) {
      const int r = e / (Width / piece);
      const int c = e % (Width / piece) * piece;
      if (pieces && r < rows && c < grid.head_size) {
        copy_piece(&x(first + r, column + c), &to[r][c]);
      } else {
        for (int i = 0; i < piece; ++i)
          to[r][c + i] = r < rows && c + i < grid.head_size ? x(first + r, column + c + i) : T(0.0F);
      }
    }
  }

  /// scores = a b^T.
  SPARSEGRAD_HOST_DEVICE static void multiply(const Rows& a, const Panel& b, Scores& scores) {
    TileSum<T> sums[panel / side];
    for (int k = 0; k < Width; k += side) {
      for (int n = 0; n < panel / side; ++n)
        sums[n].add_transposed(&a[0][k], &b[n * side][k], row_stride, row_stride);
    }
    for (int n = 0; n < panel / side; ++n)
      sums[n].store(&scores[0][n * side], score_stride);
  }

  using Sums = TileSum<T>[Width / side];
  /// sums += factors b.
  SPARSEGRAD_HOST_DEVICE static void accumulate(const Factors& factors, const Panel& b, Sums& sums) {
    for (int k = 0; k < panel; k += side) {
      for (int n = 0; n < Width / side; ++n)
        sums[n].add(&factors[0][k], &b[k][n * side], factor_stride, row_stride);
    }
  }

  /// to(first + r, column + c) = factor sums for r < rows, c < the head's size, by way of shared memory.
  SPARSEGRAD_HOST_DEVICE void write(const Sums& sums, float factor, index_t first, index_t column,
                                    index_t rows, WarpThread thread, Scores& memory,
                                    const Array2<T>& to) const {
    for (int n = 0; n < Width / side; ++n) {
      wait_for_warp();
      sums[n].store(&memory[0][0], score_stride);
      wait_for_warp();
      for (int e = thread.first; e < side * side; e += thread.step) {
        const int r = e / side;
        const int c = n * side + e % side;
        if (r < rows && c < grid.head_size)
          to(first + r, column + c) = static_cast<T>(factor * memory[r][e % side]);
      }
    }
  }

  SPARSEGRAD_HOST_DEVICE float kept(const Mask& mask, index_t j) const {
    return dropout.on() ? mask.at(j) : 1.0F;
  }
  SPARSEGRAD_HOST_DEVICE static index_t at_most(index_t n, index_t most) { return n < most ? n : most; }

 private:
  SPARSEGRAD_HOST_DEVICE static void copy_piece(const T* from, T* to) {
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
#else
    for (int i = 0; i < 8; ++i)
      to[i] = from[i];
#endif
  }
};

/// O = dropout(softmax(q k^T)) v and the logarithms of the rows' sums. The scores are made twice: once for the sums, and
/// once, with these, for O, which so needs no correction on the way.
template <class T, int Width>
struct TensorAttentionForward : TensorAttention<T, Width> {
  using Base = TensorAttention<T, Width>;
  using Base::panel;
  using Base::side;
  struct alignas(32) Shared {
    typename Base::Rows q;
    typename Base::Panel panel;
    typename Base::Factors p;
    alignas(32) typename Base::Scores scores;
    float most[side][2];  ///< of the halves of a row
    float sum[side][2];
    float log_sum[side];
    typename Base::Mask mask[side];
  };

  Array2<const T> qkv;
  Array2<T> out;
  float* log_sums;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const WarpThread thread(number);
    const AttentionGrid::Place at = this->grid.place(block, side);
    if (at.begin >= at.rows || !thread.works()) return;
    const index_t rows = Base::at_most(at.rows - at.begin, side);
    const index_t keys = this->grid.hidden() + at.column;
    const index_t values = keys + this->grid.hidden();
    this->stage(qkv, at.first + at.begin, at.column, rows, thread, shared.q);
    for (int e = thread.first; e < 2 * side; e += thread.step) {
      shared.most[e / 2][e % 2] = -INFINITY;
      shared.sum[e / 2][e % 2] = 0;
      if (e < side) shared.mask[e] = this->dropout.row(at.sums + at.begin + e);
    }
    for (index_t j = 0; j < at.keys; j += panel) {
      this->stage(qkv, at.first + j, keys, at.keys - j, thread, shared.panel);
      wait_for_warp();
      Base::multiply(shared.q, shared.panel, shared.scores);
      wait_for_warp();
      for (int e = thread.first; e < 2 * side; e += thread.step)
        add_half(e / 2, e % 2, at.keys - j, shared);
    }
    wait_for_warp();
    for (int i = thread.first; i < side; i += thread.step) {
      const float* most = shared.most[i];
      const float top = most[0] > most[1] ? most[0] : most[1];
      const float sum =
          shared.sum[i][0] * std::exp(most[0] - top) + shared.sum[i][1] * std::exp(most[1] - top);
      shared.log_sum[i] = top + std::log(sum);
      if (i < rows) log_sums[at.sums + at.begin + i] = shared.log_sum[i];
    }
    typename Base::Sums sums;
    for (index_t j = 0; j < at.keys; j += panel) {
      this->stage(qkv, at.first + j, keys, at.keys - j, thread, shared.panel);
      wait_for_warp();
      Base::multiply(shared.q, shared.panel, shared.scores);
      wait_for_warp();
      this->stage(qkv, at.first + j, values, at.keys - j, thread, shared.panel);
      for (int e = thread.first; e < side * panel; e += thread.step) {
        const int i = e / panel;
        const int c = e % panel;
        const float p = j + c < at.keys ? std::exp(shared.scores[i][c] - shared.log_sum[i]) : 0.0F;
        shared.p[i][c] = static_cast<T>(p * this->kept(shared.mask[i], j + c));
      }
      wait_for_warp();
      Base::accumulate(shared.p, shared.panel, sums);
      wait_for_warp();
    }
    this->write(sums, 1.0F, at.first + at.begin, at.column, rows, thread, shared.scores, out);
  }

 private:
  /// Takes half a panel's row of scores into the row's largest score and its sum.
  SPARSEGRAD_HOST_DEVICE static void add_half(int i, int half, index_t count, Shared& shared) {
    const float* scores = &shared.scores[i][half * side];
    const index_t real = Base::at_most(count - half * side, side);
    if (real <= 0) return;
    const float before = shared.most[i][half];
    float top = before;
    for (index_t c = 0; c < real; ++c)
      top = scores[c] > top ? scores[c] : top;
    float sum = shared.sum[i][half] * std::exp(before - top);
    for (index_t c = 0; c < real; ++c)
      sum += std::exp(scores[c] - top);
    shared.most[i][half] = top;
    shared.sum[i][half] = sum;
  }
};

/// Of some queries: delta = sum_c O dO, dS = P (mask dP - delta), dQ = scale dS K.
template <class T, int Width>
struct TensorAttentionBackwardQueries : TensorAttention<T, Width> {
  using Base = TensorAttention<T, Width>;
  using Base::panel;
  using Base::side;
  struct alignas(32) Shared {
    typename Base::Rows q;
    typename Base::Rows d_o;
    typename Base::Panel panel;
    typename Base::Factors ds;
    alignas(32) typename Base::Scores scores;
    alignas(32) typename Base::Scores products;
    float log_sum[side];
    float delta[side];
    typename Base::Mask mask[side];
  };

  float scale;
  Array2<const T> qkv;
  Array2<const T> out;
  const float* log_sums;
  Array2<const T> d_out;
  Array2<T> d_qkv;
  float* delta;  ///< [heads, tokens], for the keys' kernel

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const WarpThread thread(number);
    const AttentionGrid::Place at = this->grid.place(block, side);
    if (at.begin >= at.rows || !thread.works()) return;
    const index_t rows = Base::at_most(at.rows - at.begin, side);
    const index_t row = at.first + at.begin;
    const index_t keys = this->grid.hidden() + at.column;
    const index_t values = keys + this->grid.hidden();
    this->stage(qkv, row, at.column, rows, thread, shared.q);
    this->stage(d_out, row, at.column, rows, thread, shared.d_o);
    this->stage(out, row, at.column, rows, thread, shared.panel);
    wait_for_warp();
    for (int i = thread.first; i < side; i += thread.step) {
      const index_t place = at.sums + at.begin + i;
      float sum = 0;
      for (int c = 0; c < Width; ++c)
        sum += shared.panel[i][c] * shared.d_o[i][c];
      shared.delta[i] = sum;
      shared.log_sum[i] = i < rows ? log_sums[place] : 0.0F;
      shared.mask[i] = this->dropout.row(place);
      if (i < rows) delta[place] = sum;
    }
    typename Base::Sums sums;
    for (index_t j = 0; j < at.keys; j += panel) {
      wait_for_warp();
      this->stage(qkv, at.first + j, values, at.keys - j, thread, shared.panel);
      wait_for_warp();
      Base::multiply(shared.d_o, shared.panel, shared.products);
      wait_for_warp();
      this->stage(qkv, at.first + j, keys, at.keys - j, thread, shared.panel);
      wait_for_warp();
      Base::multiply(shared.q, shared.panel, shared.scores);
      wait_for_warp();
      for (int e = thread.first; e < side * panel; e += thread.step) {
        const int i = e / panel;
        const int c = e % panel;
        const float p =
            i < rows && j + c < at.keys ? std::exp(shared.scores[i][c] - shared.log_sum[i]) : 0.0F;
        const float product = shared.products[i][c] * this->kept(shared.mask[i], j + c);
        shared.ds[i][c] = static_cast<T>(p * (product - shared.delta[i]));
      }
      wait_for_warp();
      Base::accumulate(shared.ds, shared.panel, sums);
    }
    this->write(sums, scale, row, at.column, rows, thread, shared.scores, d_qkv);
  }
};

/// Of some keys: dV = (mask P)^T dO, dK = dS^T Q; zeros for keys that are padding.
template <class T, int Width>
struct TensorAttentionBackwardKeys : TensorAttention<T, Width> {
  using Base = TensorAttention<T, Width>;
  using Base::panel;
  using Base::side;
  struct alignas(32) Shared {
    typename Base::Rows k;
    typename Base::Rows v;
    typename Base::Panel q;
    typename Base::Panel d_o;
    typename Base::Factors p;
    typename Base::Factors ds;
    alignas(32) typename Base::Scores scores;
    alignas(32) typename Base::Scores products;
    float log_sum[panel];
    float delta[panel];
    typename Base::Mask mask[panel];
  };

  Array2<const T> qkv;
  const float* log_sums;
  const float* delta;
  Array2<const T> d_out;
  Array2<T> d_qkv;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const WarpThread thread(number);
    const AttentionGrid::Place at = this->grid.place(block, side);
    if (at.begin >= at.rows || !thread.works()) return;
    const index_t rows = Base::at_most(at.rows - at.begin, side);
    const index_t real = at.keys - at.begin;  // what is padding has no part in any sum
    const index_t row = at.first + at.begin;
    const index_t keys = this->grid.hidden() + at.column;
    const index_t values = keys + this->grid.hidden();
    this->stage(qkv, row, keys, real, thread, shared.k);
    this->stage(qkv, row, values, real, thread, shared.v);
    typename Base::Sums d_k;
    typename Base::Sums d_v;
    for (index_t i = 0; i < at.rows; i += panel) {
      wait_for_warp();
      this->stage(qkv, at.first + i, at.column, at.rows - i, thread, shared.q);
      this->stage(d_out, at.first + i, at.column, at.rows - i, thread, shared.d_o);
      for (int e = thread.first; e < panel; e += thread.step) {
        const bool there = i + e < at.rows;
        shared.log_sum[e] = there ? log_sums[at.sums + i + e] : 0.0F;
        shared.delta[e] = there ? delta[at.sums + i + e] : 0.0F;
        shared.mask[e] = this->dropout.row(at.sums + i + e);
      }
      wait_for_warp();
      Base::multiply(shared.k, shared.q, shared.scores);
      Base::multiply(shared.v, shared.d_o, shared.products);
      wait_for_warp();
      for (int e = thread.first; e < side * panel; e += thread.step) {
        const int r = e / panel;
        const int c = e % panel;
        const float p =
            r < real && i + c < at.rows ? std::exp(shared.scores[r][c] - shared.log_sum[c]) : 0.0F;
        const float multiplier = this->kept(shared.mask[c], at.begin + r);
        shared.p[r][c] = static_cast<T>(p * multiplier);
        shared.ds[r][c] = static_cast<T>(p * (shared.products[r][c] * multiplier - shared.delta[c]));
      }
      wait_for_warp();
      Base::accumulate(shared.p, shared.d_o, d_v);
      Base::accumulate(shared.ds, shared.q, d_k);
    }
    this->write(d_v, 1.0F, row, values, rows, thread, shared.scores, d_qkv);
    this->write(d_k, 1.0F, row, keys, rows, thread, shared.scores, d_qkv);
  }
};

/// Calls f with the width of a kernel for heads of this size.
template <class F>
void with_head_width(index_t head_size, const F& f) {
  if (head_size <= 64) return f(std::integral_constant<int, 64>());
  f(std::integral_constant<int, 128>());
}

}  // namespace sparsegrad::finetune::device
