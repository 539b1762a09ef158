// The decoder's attention: grouped queries, causal, of any length. Scores are made a tile at a time in the registers of a
// warp and leave them only as sums.
//
// The queries of the heads that share keys lie side by side as the rows of one matrix: row r of a sequence is token
// r / group and head r % group of its group. A block takes some of them, and all of these heads read keys and values that
// are brought to shared memory once; in the backward pass the sums over the heads of a group need no atomics.
#pragma once

#include <cmath>
#include <cstdint>

#include "../causal_shape.hpp"
#include "../placed_batch.hpp"
#include "kernels.cuh"
#include "warp_tile.cuh"

namespace sparsegrad::finetune::device {

/// The widest heads that shared memory has room for.
inline constexpr index_t widest_causal_head = 128;

/// Queries of one sequence, and where its keys and values are: row j of them at keys + j stride, all heads side by side.
template <class T>
struct CausalSequence {
  index_t first = 0;    ///< row of its first query
  index_t queries = 0;  ///< rows
  index_t past = 0;     ///< keys before those of the first query
  const T* keys = nullptr;
  const T* values = nullptr;
  index_t stride = 0;
};

/// Where blocks work: each takes `own` rows, or keys, of one sequence and one head of the keys. Those with the most to do
/// come first.
template <class T>
struct CausalGrid {
  index_t kv_heads, head_size, q_cols, kv_cols;
  std::uint32_t group;          ///< heads of the queries that share one of the keys
  index_t tokens;               ///< rows of the whole batch
  const std::int32_t* offsets;  ///< of a batch whose keys are in the queries' rows; null: `one`
  CausalSequence<T> one;
  Array2<const T> qkv;
  std::uint32_t sequences, pieces;
  bool rising;  ///< whether later pieces have more to do

  /// All sequences of a batch, in pieces of `own` rows, or of `own` keys.
  static CausalGrid of_rows(const CausalShape& shape, const BatchArrays& batch, MatrixView<const T> qkv,
                            index_t own) {
    return of_batch(shape, batch, qkv, (batch.longest * shape.group() + own - 1) / own, true);
  }
  static CausalGrid of_keys(const CausalShape& shape, const BatchArrays& batch, MatrixView<const T> qkv,
                            index_t own) {
    return of_batch(shape, batch, qkv, (batch.longest + own - 1) / own, false);
  }
  /// One sequence by rows, whose keys and values may be elsewhere.
  static CausalGrid of_sequence(const CausalShape& shape, const CausalSequence<T>& one,
                                MatrixView<const T> qkv, index_t own) {
    BatchArrays batch;
    batch.tokens = qkv.rows;
    batch.sequences = 1;
    CausalGrid grid = of_batch(shape, batch, qkv, (one.queries * shape.group() + own - 1) / own, true);
    grid.one = one;
    return grid;
  }
  index_t blocks() const { return static_cast<index_t>(sequences) * kv_heads * pieces; }

  struct Place {
    CausalSequence<T> sequence;  ///< its keys and values are those of the block's head
    index_t head;                ///< of the keys
    index_t piece;
  };
  SPARSEGRAD_HOST_DEVICE Place place(index_t block) const {
    const auto number = static_cast<std::uint32_t>(block);
    const std::uint32_t side_by_side = sequences * static_cast<std::uint32_t>(kv_heads);
    const std::uint32_t order = number / side_by_side;
    const std::uint32_t task = number % side_by_side;
    Place place;
    place.piece = rising ? pieces - 1 - order : order;
    place.head = task / sequences;
    place.sequence = offsets == nullptr ? one : sequence(task % sequences);
    place.sequence.keys += place.head * head_size;
    place.sequence.values += place.head * head_size;
    return place;
  }

 private:
  static CausalGrid of_batch(const CausalShape& shape, const BatchArrays& batch, MatrixView<const T> qkv,
                             index_t pieces, bool rising) {
    return {shape.kv_heads,
            shape.head_size,
            shape.q_cols(),
            shape.kv_cols(),
            static_cast<std::uint32_t>(shape.group()),
            batch.tokens,
            batch.offsets,
            {},
            qkv,
            static_cast<std::uint32_t>(batch.sequences),
            static_cast<std::uint32_t>(pieces),
            rising};
  }
  SPARSEGRAD_HOST_DEVICE CausalSequence<T> sequence(index_t number) const {
    CausalSequence<T> s;
    s.first = offsets[number];
    s.queries = offsets[number + 1] - s.first;
    s.keys = &qkv(s.first, q_cols);
    s.values = s.keys + kv_cols;
    s.stride = qkv.stride;
    return s;
  }
};

/// What the three kernels have in common. Width: the head's size, filled up with zeros.
template <class T, int Width>
struct CausalAttention {
  using C = compute_t<T>;
  using Product = WarpProduct<T>;
  // Two buffers of panels: one is on its way from memory while the other is worked on. Numbers of float are exchanged
  // through shared memory and have room for one.
  static constexpr bool narrow = is_low_precision<T>;
  static constexpr int warps = narrow ? (Width <= 64 ? 4 : 3) : (Width <= 64 ? 2 : 1);
  static constexpr int panel = Width <= 64 ? 32 : 16;
  static constexpr int buffers = narrow ? 2 : 1;
  static constexpr int side = WarpTile<C, 16>::rows;
  static constexpr int own = warps * side;
  static constexpr int threads = 32 * warps;
  static constexpr int phases = 1;
  // 16 bytes longer than the rows: lanes read eight rows at a time from different banks.
  static constexpr int stride = Width + 16 / static_cast<int>(sizeof(T));
  static constexpr int warps_here = warps_of_thread<warps>();

  using Own = T[own][stride];
  using Panel = T[panel][stride];
  using Sums = WarpTile<C, Width>;
  using Scores = WarpTile<C, panel>;

  CausalGrid<T> grid;
  C scale;
  bool in_packs;  ///< rows of all operands can be copied 16 bytes at a time

  index_t blocks() const { return grid.blocks(); }

  /// Address of row r's numbers in a matrix like the queries.
  template <class V>
  SPARSEGRAD_HOST_DEVICE V* row_of(const Array2<V>& x, const typename CausalGrid<T>::Place& at,
                                   index_t r) const {
    const auto number = static_cast<std::uint32_t>(r);
    return &x(at.sequence.first + number / grid.group,
              (at.head * grid.group + number % grid.group) * grid.head_size);
  }
  /// Place of row r in log_sums [heads, tokens].
  SPARSEGRAD_HOST_DEVICE index_t sum_of(const typename CausalGrid<T>::Place& at, index_t r) const {
    const auto number = static_cast<std::uint32_t>(r);
    return (at.head * grid.group + number % grid.group) * grid.tokens + at.sequence.first +
           number / grid.group;
  }
  SPARSEGRAD_HOST_DEVICE index_t token_of(index_t r) const {
    return static_cast<std::uint32_t>(r) / grid.group;
  }

  /// Starts copies: to[r] = row(first + r) for first + r < count, zeros in other rows and beyond the head's size.
  template <int Count, class Row>
  SPARSEGRAD_HOST_DEVICE void stage(const Row& row, index_t first, index_t count, BlockThread thread,
                                    T (&to)[Count][stride]) const {
    constexpr int piece = 16 / static_cast<int>(sizeof(T));
    for (int e = thread.first; e < Count * (Width / piece); e += thread.step) {
      const int r = e / (Width / piece);
      const int c = e % (Width / piece) * piece;
      const bool there = first + r < count && c < grid.head_size;
      if (there && in_packs) {
        start_copy(row(first + r) + c, &to[r][c]);
      } else {
        const T* from = there ? row(first + r) : nullptr;
        for (int i = 0; i < piece; ++i)
          to[r][c + i] = there && c + i < grid.head_size ? from[c + i] : static_cast<T>(C(0));
      }
    }
  }

  /// Calls work(first, buffer) for panels that begin at `begin`, `begin` + panel, ... below `end`, each after
  /// stage_panel(first, buffer) has brought it to shared memory.
  template <class Stage, class Work>
  SPARSEGRAD_HOST_DEVICE static void for_panels(index_t begin, index_t end, const Stage& stage_panel,
                                                const Work& work) {
    int buffer = 0;
    stage_panel(begin, buffer);
    end_group_of_copies();
    for (index_t first = begin; first < end; first += panel) {
      const bool more = first + panel < end;
      if (buffers == 2 && more) {
        stage_panel(first + panel, 1 - buffer);
        end_group_of_copies();
        wait_for_copies<1>();
      } else {
        wait_for_copies<0>();
      }
      wait_for_block();
      work(first, buffer);
      wait_for_block();
      if (buffers == 1 && more) {
        stage_panel(first + panel, buffer);
        end_group_of_copies();
      } else {
        buffer = 1 - buffer;
      }
    }
  }

  /// Writes factor(slot) sums to the rows to(r) for r < count, by way of `memory`, 16 rows that are the warp's own.
  template <class Factor, class To>
  SPARSEGRAD_HOST_DEVICE void write(Sums& sums, const Factor& factor, T* memory, index_t count,
                                    const To& to) const {
    wait_for_warp();
    sums.visit([&](int slot, int row, int col, C& x) {
      memory[row * stride + col] = static_cast<T>(x * factor(slot));
    });
    wait_for_warp();
    constexpr int piece = 16 / static_cast<int>(sizeof(T));
    for (int e = lane(); e < side * (Width / piece); e += lanes_of_warp()) {
      const int r = e / (Width / piece);
      const int c = e % (Width / piece) * piece;
      if (r >= count || c >= grid.head_size) continue;
      T* const row = to(r);
      if (in_packs) {
        *reinterpret_cast<PackWords<16>*>(row + c) =
            *reinterpret_cast<const PackWords<16>*>(memory + r * stride + c);
      } else {
        for (int i = 0; i < piece && c + i < grid.head_size; ++i)
          row[c + i] = memory[r * stride + c + i];
      }
    }
  }

  SPARSEGRAD_HOST_DEVICE static C exponential(C x) {
#if defined(__CUDA_ARCH__)
    if constexpr (narrow) return __expf(x);
#endif
    return std::exp(x);
  }
  SPARSEGRAD_HOST_DEVICE static index_t at_most(index_t n, index_t most) {
    return n < most ? n : most;
  }
};

}  // namespace sparsegrad::finetune::device
