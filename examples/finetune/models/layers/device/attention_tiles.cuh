// What attention's kernels have in common. Scores are made a tile at a time in the registers of a warp and leave them only
// as sums, so that sequences may be of any length.
//
// The queries of the heads that share keys lie side by side as the rows of one matrix: row r of a sequence is token
// r / group and head r % group of its group. A block takes some of them, and all of these heads read keys and values that
// are brought to shared memory once; in the backward pass the sums over the heads of a group need no atomics.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention_grid.cuh"
#include "attention_pattern.cuh"
#include "warp_tile.cuh"

namespace sparsegrad::finetune::device {

/// The widest heads that shared memory has room for.
inline constexpr index_t widest_head = 128;

/// What the three kernels share. Width: the head's size, filled up with zeros.
template <class T, int Width, class Pattern>
struct AttentionTiles {
  using C = compute_t<T>;
  using Product = WarpProduct<T>;
  using Place = typename AttentionGrid<T>::Place;
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
  static constexpr int piece = 16 / static_cast<int>(sizeof(T));  ///< numbers that are copied at a time
  // A piece longer than the rows: lanes read eight rows at a time from different banks.
  static constexpr int stride = Width + piece;
  static constexpr int warps_here = warps_of_thread<warps>();
  /// Exponents count in powers of 2 in 16 bits, for which a GPU has one instruction: log2(e); else in powers of e.
  static constexpr C unit = narrow ? C(1.4426950408889634) : C(1);

  using Own = T[own][stride];
  using Panel = T[panel][stride];
  using Sums = WarpTile<C, Width>;
  using Scores = WarpTile<C, panel>;

  AttentionGrid<T> grid;
  Pattern pattern;
  C scale;        ///< of the scores
  bool in_packs;  ///< rows of all operands can be copied 16 bytes at a time

  index_t blocks() const { return grid.blocks(); }

  /// Of the heads.
  SPARSEGRAD_HOST_DEVICE int size() const { return static_cast<int>(grid.head_size); }
  SPARSEGRAD_HOST_DEVICE int group() const { return Pattern::grouped ? static_cast<int>(grid.group) : 1; }
  SPARSEGRAD_HOST_DEVICE int token_of(int r) const {
    return static_cast<int>(static_cast<std::uint32_t>(r) / static_cast<std::uint32_t>(group()));
  }
  /// Number of the head among those of the queries.
  SPARSEGRAD_HOST_DEVICE index_t head_of(const Place& at, int r) const {
    return at.head * group() + (r - token_of(r) * group());
  }
  /// Address of row r's numbers in a matrix like the queries.
  template <class V>
  SPARSEGRAD_HOST_DEVICE V* row_of(const Array2<V>& x, const Place& at, int r) const {
    return &x(at.sequence.first + token_of(r), head_of(at, r) * grid.head_size);
  }
  /// Place of row r in [heads, tokens], as the statistics are stored.
  SPARSEGRAD_HOST_DEVICE index_t place_of(const Place& at, int r) const {
    return head_of(at, r) * grid.tokens + at.sequence.first + token_of(r);
  }
  /// How many keys row r sees.
  SPARSEGRAD_HOST_DEVICE int seen_by(const Place& at, int r) const {
    return pattern.seen_by(at.sequence, token_of(r));
  }

  /// Starts copies: to[r] = row(first + r) for first + r < count, zeros in other rows and beyond the head's size.
  template <int Count, class Row>
  SPARSEGRAD_HOST_DEVICE void stage(const Row& row, int first, int count, BlockThread thread,
                                    T (&to)[Count][stride]) const {
    constexpr int pieces = Count * (Width / piece);
    const auto place = [&](int e, const auto& copy) {
      const int r = e / (Width / piece);
      const int c = e % (Width / piece) * piece;
      const bool there = first + r < count && c < grid.head_size;
      copy(row(there ? first + r : first) + (there ? c : 0), &to[r][c],
           there ? at_most(size() - c, piece) : 0);
    };
    if (in_packs) {
      constexpr int step = threads_here<threads>();
      SPARSEGRAD_UNROLL
      for (int begin = 0; begin < pieces; begin += step) {
        if (pieces % step == 0 || begin + thread.first < pieces)
          place(begin + thread.first, [](const T* from, T* at, int n) { start_copy(from, at, n > 0); });
      }
    } else {
      for (int e = thread.first; e < pieces; e += thread.step) {
        place(e, [](const T* from, T* at, int n) {
          for (int i = 0; i < piece; ++i)
            at[i] = i < n ? from[i] : static_cast<T>(C(0));
        });
      }
    }
  }
  /// Starts copies of keys and values from the key `first` on.
  SPARSEGRAD_HOST_DEVICE void stage_keys(const AttentionSequence<T>& s, int first, int count,
                                         BlockThread thread, Panel& k, Panel& v) const {
    stage([&](int j) { return s.k + j * s.stride; }, first, count, thread, k);
    stage([&](int j) { return s.v + j * s.stride; }, first, count, thread, v);
  }

  /// Calls work(first, buffer) for panels that begin at `begin`, `begin` + panel, ... below `end`, each after
  /// stage_panel(first, buffer) has brought it to shared memory.
  template <class Stage, class Work>
  SPARSEGRAD_HOST_DEVICE static void for_panels(int begin, int end, const Stage& stage_panel,
                                                const Work& work) {
    int buffer = 0;
    stage_panel(begin, buffer);
    end_group_of_copies();
    for (int first = begin; first < end; first += panel) {
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

  /// Writes factor(slot) sums to the rows to(r) for r < count, by way of `memory`, 16 rows that are the warp's own and that
  /// none of its lanes reads any more.
  template <class Factor, class To>
  SPARSEGRAD_HOST_DEVICE void write(Sums& sums, const Factor& factor, T* memory, int count,
                                    const To& to) const {
    sums.visit([&](int slot, int row, int col, C& x) {
      memory[row * stride + col] = static_cast<T>(x * factor(slot));
    });
    wait_for_warp();
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

  /// e^(x / unit).
  SPARSEGRAD_HOST_DEVICE static C exponential(C x) {
    if constexpr (narrow) {
#if defined(__CUDA_ARCH__)
      C power;
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
      return power;
#else
      return std::exp2(x);
#endif
    } else {
      return std::exp(x);
    }
  }
  SPARSEGRAD_HOST_DEVICE static int at_most(int n, int most) {
    return n < most ? n : most;
  }
};

}  // namespace sparsegrad::finetune::device
