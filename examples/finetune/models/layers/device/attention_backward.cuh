#pragma once

#include <type_traits>

#include "attention_tiles.cuh"

namespace sparsegrad::finetune::device {

/// Of some queries: delta = sum_c O dO, dS = P (mask dP - delta), dQ = scale dS K.
template <class T, int Width, class Pattern>
struct AttentionBackwardQueries : AttentionTiles<T, Width, Pattern> {
  using Base = AttentionTiles<T, Width, Pattern>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  using Place = typename Base::Place;
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
    const Place at = this->grid.place(block);
    const int rows = at.sequence.queries * this->group();
    const int begin = at.piece * Base::own;
    if (begin >= rows || !thread.works()) return;
    const int keys = this->seen_by(at, Base::at_most(begin + Base::own, rows) - 1);

    this->stage([&](int r) { return this->row_of(this->grid.qkv, at, r); }, begin, rows, thread, shared.q);
    this->stage([&](int r) { return this->row_of(d_out, at, r); }, begin, rows, thread, shared.d_o);
    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w)
      begin_rows(at, begin + (first_warp(number) + w) * side, rows, state[w]);
    Base::for_panels(
        0, keys,
        [&](int j, int buffer) {
          this->stage_keys(at.sequence, j, keys, thread, shared.k[buffer], shared.v[buffer]);
        },
        [&](int j, int buffer) {
          for (int w = 0; w < Base::warps_here; ++w)
            add_panel(j, first_warp(number) + w, shared, buffer, state[w]);
        });
    for (int w = 0; w < Base::warps_here; ++w) {
      const int warp = first_warp(number) + w;
      const int first = begin + warp * side;
      this->write(
          state[w].sums, [&](int) { return this->scale; }, &shared.q[warp * side][0], rows - first,
          [&](int r) { return this->row_of(d_qkv, at, first + r); });
    }
  }

 private:
  struct State {
    typename Base::Sums sums;
    WarpRows<C> shift, delta;
    WarpRows<int> seen;  ///< keys that each row sees
    int seen_by_all;
    WarpRows<std::uint64_t> row_key;
  };

  SPARSEGRAD_HOST_DEVICE void begin_rows(const Place& at, int first, int rows, State& state) const {
    state.sums.clear();
    state.seen = WarpRows<int>::of([&](int row) { return this->seen_by(at, first + row); });
    state.seen_by_all = this->seen_by(at, first);
    state.row_key = WarpRows<std::uint64_t>::of(
        [&](int row) { return this->pattern.row_key(this->place_of(at, first + row)); });
    state.shift = WarpRows<C>::of([&](int row) {
      return first + row < rows ? Base::unit * log_sums[this->place_of(at, first + row)] : C(0);
    });
    state.delta = WarpRows<C>::of([&](int row) {
      return first + row < rows
                 ? product_of(this->row_of(out, at, first + row), this->row_of(d_out, at, first + row))
                 : C(0);
    });
    for (int slot = 0; slot < WarpRows<C>::slots; ++slot) {
      const int r = first + WarpRows<C>::row(slot);
      state.delta[slot] = over_row(state.delta[slot], Plus());
      if (r < rows && lane_of_row() == 0) delta[this->place_of(at, r)] = state.delta[slot];
    }
  }

  /// This lane's part of the product of two rows.
  SPARSEGRAD_HOST_DEVICE C product_of(const T* a, const T* b) const {
    constexpr int step = Base::piece;
    C sum = 0;
    if (this->in_packs) {
      SPARSEGRAD_UNROLL
      for (int first = 0; first < Width; first += step * lanes_of_row()) {
        const int c = first + step * lane_of_row();
        if (c >= this->grid.head_size) continue;
        const auto x = load_pack<T, step>(a + c);
        const auto y = load_pack<T, step>(b + c);
        for (int i = 0; i < step; ++i)
          sum += x.x[i] * y.x[i];
      }
    } else {
      for (index_t c = lane_of_row(); c < this->grid.head_size; c += lanes_of_row())
        sum += C(a[c]) * C(b[c]);
    }
    return sum;
  }

  SPARSEGRAD_HOST_DEVICE void add_panel(int j, int warp, Shared& shared, int buffer, State& state) const {
    typename Base::Scores scores;
    typename Base::Scores products;
    scores.clear();
    products.clear();
    Base::Product::template add_transposed<Width>(&shared.q[warp * side][0], &shared.k[buffer][0][0],
                                                  Base::stride, scores);
    Base::Product::template add_transposed<Width>(&shared.d_o[warp * side][0], &shared.v[buffer][0][0],
                                                  Base::stride, products);
    if (j + panel > state.seen_by_all) {
      scores.visit([&](int slot, int, int col, C& x) {
        if (j + col >= state.seen[slot]) x = -INFINITY;
      });
    }
    if (this->pattern.drops()) {
      products.visit(
          [&](int slot, int, int col, C& x) { x *= this->pattern.multiplier(state.row_key[slot], j + col); });
    }
    const C factor = this->scale * Base::unit;
    Base::Scores::visit_two(scores, products, [&](int slot, int, int, C& x, C& product) {
      x = Base::exponential(factor * x - state.shift[slot]) * (product - state.delta[slot]);
    });
    Base::Product::template add<panel>(scores, &shared.k[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.sums);
  }
};

/// Of some keys: dV = (mask P)^T dO, dK = scale dS^T Q, over all heads that read them; zeros for keys that are padding.
template <class T, int Width, class Pattern>
struct AttentionBackwardKeys : AttentionTiles<T, Width, Pattern> {
  using Base = AttentionTiles<T, Width, Pattern>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  using Place = typename Base::Place;
  struct alignas(16) Shared {
    typename Base::Own k;
    typename Base::Own v;
    typename Base::Panel q[Base::buffers];
    typename Base::Panel d_o[Base::buffers];
    C shift[Base::buffers][panel];
    C delta[Base::buffers][panel];
    std::uint64_t row_key[Base::buffers][Pattern::may_drop ? panel : 1];
    C exchange[Base::warps][Base::Product::template exchange<panel>];
  };

  const C* log_sums;
  const C* delta;
  Array2<const T> d_out;
  Array2<T> d_qkv;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const BlockThread thread(number, Base::threads);
    const Place at = this->grid.place(block);
    const AttentionSequence<T>& s = at.sequence;
    const int rows = s.queries * this->group();
    const int begin = at.piece * Base::own;
    if (begin >= s.queries || !thread.works()) return;

    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w) {
      const int first = begin + (first_warp(number) + w) * side;
      state[w].d_k.clear();
      state[w].d_v.clear();
      state[w].first = WarpRows<int>::of([&](int row) { return first_to_see(s, first + row); });
      state[w].first_to_see_all = first_to_see(s, first + side - 1);
    }
    // Nobody sees the keys of a block that is all padding.
    if (begin < s.keys) {
      this->stage([&](int j) { return s.k + j * s.stride; }, begin, s.keys, thread, shared.k);
      this->stage([&](int j) { return s.v + j * s.stride; }, begin, s.keys, thread, shared.v);
      Base::for_panels(
          first_to_see(s, begin), rows,
          [&](int i, int buffer) { stage_rows(at, i, rows, thread, shared, buffer); },
          [&](int i, int buffer) {
            for (int w = 0; w < Base::warps_here; ++w)
              add_panel(i, begin, first_warp(number) + w, shared, buffer, state[w]);
          });
    }
    const index_t key_column = this->grid.q_cols + at.head * this->grid.head_size;
    for (int w = 0; w < Base::warps_here; ++w) {
      const int warp = first_warp(number) + w;
      const int first = begin + warp * side;
      T* const memory = &shared.k[warp * side][0];
      this->write(
          state[w].d_k, [&](int) { return this->scale; }, memory, s.queries - first,
          [&](int r) { return &d_qkv(s.first + first + r, key_column); });
      wait_for_warp();
      this->write(
          state[w].d_v, [&](int) { return C(1); }, memory, s.queries - first,
          [&](int r) { return &d_qkv(s.first + first + r, key_column + this->grid.kv_cols); });
    }
  }

 private:
  struct State {
    typename Base::Sums d_k, d_v;
    WarpRows<int> first;  ///< row that sees each key
    int first_to_see_all;
  };

  /// The first row that sees this key.
  SPARSEGRAD_HOST_DEVICE int first_to_see(const AttentionSequence<T>& s, int key) const {
    return this->pattern.first_to_see(s, key) * this->group();
  }

  /// Starts copies of queries and their gradients from the row `first` on, and writes what else is theirs.
  SPARSEGRAD_HOST_DEVICE void stage_rows(const Place& at, int first, int rows, BlockThread thread,
                                         Shared& shared, int buffer) const {
    this->stage([&](int r) { return this->row_of(this->grid.qkv, at, r); }, first, rows, thread,
                shared.q[buffer]);
    this->stage([&](int r) { return this->row_of(d_out, at, r); }, first, rows, thread, shared.d_o[buffer]);
    for (int e = thread.first; e < panel; e += thread.step) {
      const bool there = first + e < rows;
      const index_t place = this->place_of(at, there ? first + e : 0);
      shared.shift[buffer][e] = there ? Base::unit * log_sums[place] : C(0);
      shared.delta[buffer][e] = there ? delta[place] : C(0);
      if constexpr (Pattern::may_drop) shared.row_key[buffer][e] = this->pattern.row_key(place);
    }
  }

  SPARSEGRAD_HOST_DEVICE void add_panel(int i, int begin, int warp, Shared& shared, int buffer,
                                        State& state) const {
    typename Base::Scores scores;
    typename Base::Scores products;
    scores.clear();
    products.clear();
    Base::Product::template add_transposed<Width>(&shared.k[warp * side][0], &shared.q[buffer][0][0],
                                                  Base::stride, scores);
    Base::Product::template add_transposed<Width>(&shared.v[warp * side][0], &shared.d_o[buffer][0][0],
                                                  Base::stride, products);
    if (i < state.first_to_see_all) {
      scores.visit([&](int slot, int, int col, C& x) {
        if (i + col < state.first[slot]) x = -INFINITY;
      });
    }
    const C factor = this->scale * Base::unit;
    const auto take = [&](auto multiplier) {
      Base::Scores::visit_two(scores, products, [&](int, int row, int col, C& x, C& product) {
        const C p = Base::exponential(factor * x - shared.shift[buffer][col]);
        const C kept = multiplier(begin + warp * side + row, col);
        x = p * kept;
        product = p * (product * kept - shared.delta[buffer][col]);
      });
    };
    if (this->pattern.drops()) {
      take([&](int key, int col) {
        return this->pattern.multiplier(shared.row_key[buffer][Pattern::may_drop ? col : 0], key);
      });
    } else {
      take([](int, int) { return C(1); });
    }
    Base::Product::template add<panel>(scores, &shared.d_o[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.d_v);
    if constexpr (!Base::narrow) wait_for_warp();  // for the exchange's memory
    Base::Product::template add<panel>(products, &shared.q[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.d_k);
  }
};

}  // namespace sparsegrad::finetune::device
