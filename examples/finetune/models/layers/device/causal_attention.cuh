// The decoder's attention: grouped queries, causal, of any length. Scores are made a tile at a time in the registers of a
// warp and leave them only as sums.
//
// The queries of the heads that share keys lie side by side as the rows of one matrix: row r of a sequence is token
// r / group and head r % group of its group. A block takes some of them, and all of these heads read keys and values that
// are brought to shared memory once; in the backward pass the sums over the heads of a group need no atomics.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include <sparsegrad/core/error.hpp>

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

/// O = softmax(q k^T scale) v over the keys that a query sees, and the logarithms of the rows' sums. What was summed is
/// corrected where a panel has a larger score than those before it.
template <class T, int Width>
struct CausalForward : CausalAttention<T, Width> {
  using Base = CausalAttention<T, Width>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  struct alignas(16) Shared {
    typename Base::Own q;
    typename Base::Panel k[Base::buffers];
    typename Base::Panel v[Base::buffers];
    C exchange[Base::warps][Base::Product::template exchange<panel>];
  };

  Array2<T> out;
  C* log_sums;  ///< null: not wanted

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const BlockThread thread(number, Base::threads);
    const auto at = this->grid.place(block);
    const index_t rows = at.sequence.queries * this->grid.group;
    const index_t begin = at.piece * Base::own;
    if (begin >= rows || !thread.works()) return;
    const CausalSequence<T>& s = at.sequence;
    const index_t keys =
        s.past + this->token_of(Base::at_most(begin + Base::own, rows) - 1) + 1;  // that are seen

    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w) {
      state[w].sums.clear();
      state[w].most = WarpRows<C>::of([](int) { return -INFINITY; });
      state[w].sum = WarpRows<C>::of([](int) { return C(0); });
      const index_t first = begin + (first_warp(number) + w) * side;
      state[w].last = WarpRows<index_t>::of([&](int row) { return s.past + this->token_of(first + row); });
    }
    const auto query = [&](index_t r) { return this->row_of(this->grid.qkv, at, r); };
    this->stage(query, begin, rows, thread, shared.q);
    Base::for_panels(
        0, keys,
        [&](index_t j, int buffer) {
          this->stage([&](index_t r) { return s.keys + r * s.stride; }, j, keys, thread, shared.k[buffer]);
          this->stage([&](index_t r) { return s.values + r * s.stride; }, j, keys, thread, shared.v[buffer]);
        },
        [&](index_t j, int buffer) {
          for (int w = 0; w < Base::warps_here; ++w)
            add_panel(j, first_warp(number) + w, shared, buffer, state[w]);
        });
    for (int w = 0; w < Base::warps_here; ++w) {
      const int warp = first_warp(number) + w;
      const index_t first = begin + warp * side;
      const State& made = state[w];
      this->write(
          state[w].sums, [&](int slot) { return C(1) / made.sum[slot]; }, &shared.q[warp * side][0],
          rows - first, [&](int r) { return this->row_of(out, at, first + r); });
      if (log_sums == nullptr || lane_of_row() != 0) continue;
      for (int slot = 0; slot < WarpRows<C>::slots; ++slot) {
        const index_t r = first + WarpRows<C>::row(slot);
        if (r < rows)
          log_sums[this->sum_of(at, r)] = this->scale * made.most[slot] + std::log(made.sum[slot]);
      }
    }
  }

 private:
  struct State {
    typename Base::Sums sums;
    WarpRows<C> most, sum;
    WarpRows<index_t> last;  ///< key that each row sees
  };

  SPARSEGRAD_HOST_DEVICE void add_panel(index_t j, int warp, Shared& shared, int buffer, State& state) const {
    typename Base::Scores scores;
    scores.clear();
    Base::Product::template add_transposed<Width>(&shared.q[warp * side][0], &shared.k[buffer][0][0],
                                                  Base::stride, scores);
    scores.visit([&](int slot, int, int col, C& x) {
      if (j + col > state.last[slot]) x = -INFINITY;
    });
    // Every row sees the first key, so that `most` is finite from the first panel on.
    const WarpRows<C> before = state.most;
    scores.fold_rows(state.most, Larger(), -INFINITY);
    const WarpRows<C> factor = WarpRows<C>::each(
        [&](int slot) { return Base::exponential(this->scale * (before[slot] - state.most[slot])); });
    WarpRows<C> sum = WarpRows<C>::of([](int) { return C(0); });
    scores.visit(
        [&](int slot, int, int, C& x) { x = Base::exponential(this->scale * (x - state.most[slot])); });
    scores.fold_rows(sum, Plus(), C(0));
    for (int slot = 0; slot < WarpRows<C>::slots; ++slot)
      state.sum[slot] = state.sum[slot] * factor[slot] + sum[slot];
    state.sums.visit([&](int slot, int, int, C& x) { x *= factor[slot]; });
    Base::Product::template add<panel>(scores, &shared.v[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.sums);
  }
};

/// Of some queries: delta = sum_c O dO, dS = P (dP - delta), dQ = scale dS K.
template <class T, int Width>
struct CausalBackwardQueries : CausalAttention<T, Width> {
  using Base = CausalAttention<T, Width>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  struct alignas(16) Shared {
    typename Base::Own q;
    typename Base::Own d_o;
    typename Base::Panel k[Base::buffers];
    typename Base::Panel v[Base::buffers];
    C exchange[Base::warps][Base::Product::template exchange<panel>];
  };

  Array2<const T> out;
  const C* log_sums;
  Array2<const T> d_out;
  Array2<T> d_qkv;
  C* delta;  ///< [heads, tokens], for the keys' kernel

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const BlockThread thread(number, Base::threads);
    const auto at = this->grid.place(block);
    const index_t rows = at.sequence.queries * this->grid.group;
    const index_t begin = at.piece * Base::own;
    if (begin >= rows || !thread.works()) return;
    const CausalSequence<T>& s = at.sequence;
    const index_t keys = this->token_of(Base::at_most(begin + Base::own, rows) - 1) + 1;

    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w) {
      const index_t first = begin + (first_warp(number) + w) * side;
      state[w].sums.clear();
      state[w].last = WarpRows<index_t>::of([&](int row) { return this->token_of(first + row); });
      state[w].log_sum = WarpRows<C>::of(
          [&](int row) { return first + row < rows ? log_sums[this->sum_of(at, first + row)] : C(0); });
      state[w].delta = WarpRows<C>::of([&](int row) {
        return first + row < rows
                   ? product_of(this->row_of(out, at, first + row), this->row_of(d_out, at, first + row))
                   : C(0);
      });
      for (int slot = 0; slot < WarpRows<C>::slots; ++slot) {
        const index_t r = first + WarpRows<C>::row(slot);
        state[w].delta[slot] = over_row(state[w].delta[slot], Plus());
        if (r < rows && lane_of_row() == 0) delta[this->sum_of(at, r)] = state[w].delta[slot];
      }
    }
    this->stage([&](index_t r) { return this->row_of(this->grid.qkv, at, r); }, begin, rows, thread,
                shared.q);
    this->stage([&](index_t r) { return this->row_of(d_out, at, r); }, begin, rows, thread, shared.d_o);
    Base::for_panels(
        0, keys,
        [&](index_t j, int buffer) {
          this->stage([&](index_t r) { return s.keys + r * s.stride; }, j, keys, thread, shared.k[buffer]);
          this->stage([&](index_t r) { return s.values + r * s.stride; }, j, keys, thread, shared.v[buffer]);
        },
        [&](index_t j, int buffer) {
          for (int w = 0; w < Base::warps_here; ++w)
            add_panel(j, first_warp(number) + w, shared, buffer, state[w]);
        });
    for (int w = 0; w < Base::warps_here; ++w) {
      const int warp = first_warp(number) + w;
      const index_t first = begin + warp * side;
      this->write(
          state[w].sums, [&](int) { return this->scale; }, &shared.q[warp * side][0], rows - first,
          [&](int r) { return this->row_of(d_qkv, at, first + r); });
    }
  }

 private:
  struct State {
    typename Base::Sums sums;
    WarpRows<C> log_sum, delta;
    WarpRows<index_t> last;
  };

  /// This lane's part of the product of two rows.
  SPARSEGRAD_HOST_DEVICE C product_of(const T* a, const T* b) const {
    C sum = 0;
    for (index_t c = lane_of_row() * 8; c < this->grid.head_size; c += lanes_of_row() * 8) {
      if (this->in_packs && c + 8 <= this->grid.head_size) {
        const auto x = load_pack<T, 8>(a + c);
        const auto y = load_pack<T, 8>(b + c);
        for (int i = 0; i < 8; ++i)
          sum += x.x[i] * y.x[i];
      } else {
        for (index_t i = c; i < c + 8 && i < this->grid.head_size; ++i)
          sum += C(a[i]) * C(b[i]);
      }
    }
    return sum;
  }

  SPARSEGRAD_HOST_DEVICE void add_panel(index_t j, int warp, Shared& shared, int buffer, State& state) const {
    typename Base::Scores scores;
    typename Base::Scores products;
    scores.clear();
    products.clear();
    Base::Product::template add_transposed<Width>(&shared.q[warp * side][0], &shared.k[buffer][0][0],
                                                  Base::stride, scores);
    Base::Product::template add_transposed<Width>(&shared.d_o[warp * side][0], &shared.v[buffer][0][0],
                                                  Base::stride, products);
    Base::Scores::visit_two(scores, products, [&](int slot, int, int col, C& x, C& product) {
      const C p =
          j + col > state.last[slot] ? C(0) : Base::exponential(this->scale * x - state.log_sum[slot]);
      x = p * (product - state.delta[slot]);
    });
    Base::Product::template add<panel>(scores, &shared.k[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.sums);
  }
};

/// Of some keys: dV = P^T dO, dK = scale dS^T Q, over all heads that read them.
template <class T, int Width>
struct CausalBackwardKeys : CausalAttention<T, Width> {
  using Base = CausalAttention<T, Width>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  struct alignas(16) Shared {
    typename Base::Own k;
    typename Base::Own v;
    typename Base::Panel q[Base::buffers];
    typename Base::Panel d_o[Base::buffers];
    C log_sum[Base::buffers][panel];
    C delta[Base::buffers][panel];
    C exchange[Base::warps][Base::Product::template exchange<panel>];
  };

  const C* log_sums;
  const C* delta;
  Array2<const T> d_out;
  Array2<T> d_qkv;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const BlockThread thread(number, Base::threads);
    const auto at = this->grid.place(block);
    const CausalSequence<T>& s = at.sequence;
    const index_t group = this->grid.group;
    const index_t rows = s.queries * group;
    const index_t begin = at.piece * Base::own;
    if (begin >= s.queries || !thread.works()) return;

    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w) {
      state[w].d_k.clear();
      state[w].d_v.clear();
    }
    this->stage([&](index_t r) { return s.keys + r * s.stride; }, begin, s.queries, thread, shared.k);
    this->stage([&](index_t r) { return s.values + r * s.stride; }, begin, s.queries, thread, shared.v);
    // Rows before the first key see none of them.
    Base::for_panels(
        begin * group, rows,
        [&](index_t i, int buffer) {
          this->stage([&](index_t r) { return this->row_of(this->grid.qkv, at, r); }, i, rows, thread,
                      shared.q[buffer]);
          this->stage([&](index_t r) { return this->row_of(d_out, at, r); }, i, rows, thread,
                      shared.d_o[buffer]);
          for (int e = thread.first; e < panel; e += thread.step) {
            const bool there = i + e < rows;
            shared.log_sum[buffer][e] = there ? log_sums[this->sum_of(at, i + e)] : C(0);
            shared.delta[buffer][e] = there ? delta[this->sum_of(at, i + e)] : C(0);
          }
        },
        [&](index_t i, int buffer) {
          for (int w = 0; w < Base::warps_here; ++w)
            add_panel(i, begin, first_warp(number) + w, shared, buffer, state[w]);
        });
    const index_t key_column = this->grid.q_cols + at.head * this->grid.head_size;
    for (int w = 0; w < Base::warps_here; ++w) {
      const int warp = first_warp(number) + w;
      const index_t first = begin + warp * side;
      T* const memory = &shared.k[warp * side][0];
      this->write(
          state[w].d_k, [&](int) { return this->scale; }, memory, s.queries - first,
          [&](int r) { return &d_qkv(s.first + first + r, key_column); });
      this->write(
          state[w].d_v, [&](int) { return C(1); }, memory, s.queries - first,
          [&](int r) { return &d_qkv(s.first + first + r, key_column + this->grid.kv_cols); });
    }
  }

 private:
  struct State {
    typename Base::Sums d_k, d_v;
  };

  SPARSEGRAD_HOST_DEVICE void add_panel(index_t i, index_t begin, int warp, Shared& shared, int buffer,
                                        State& state) const {
    typename Base::Scores scores;
    typename Base::Scores products;
    scores.clear();
    products.clear();
    Base::Product::template add_transposed<Width>(&shared.k[warp * side][0], &shared.q[buffer][0][0],
                                                  Base::stride, scores);
    Base::Product::template add_transposed<Width>(&shared.v[warp * side][0], &shared.d_o[buffer][0][0],
                                                  Base::stride, products);
    const index_t group = this->grid.group;
    const WarpRows<index_t> seen =  // by rows from this one on
        WarpRows<index_t>::of([&](int row) { return (begin + warp * side + row) * group; });
    Base::Scores::visit_two(scores, products, [&](int slot, int, int col, C& x, C& product) {
      const C p =
          i + col < seen[slot] ? C(0) : Base::exponential(this->scale * x - shared.log_sum[buffer][col]);
      x = p;
      product = p * (product - shared.delta[buffer][col]);
    });
    Base::Product::template add<panel>(scores, &shared.d_o[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.d_v);
    Base::Product::template add<panel>(products, &shared.q[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.d_k);
  }
};

/// Calls f with the width of a kernel for heads of this size.
template <class F>
void with_causal_width(index_t head_size, const F& f) {
  if (head_size <= 64) return f(std::integral_constant<int, 64>());
  f(std::integral_constant<int, 128>());
}

/// Throws ShapeError when the kernels have no room for heads of this size.
inline void require_causal_room(const CausalShape& shape) {
  if (shape.head_size <= widest_causal_head) return;
  throw ShapeError("attention on the GPU: heads of size " + std::to_string(shape.head_size) +
                   ", expected at most " + std::to_string(widest_causal_head));
}

}  // namespace sparsegrad::finetune::device
