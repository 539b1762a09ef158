// The backward pass of the decoder's attention (see causal_tiles.cuh).
#pragma once

#include "causal_tiles.cuh"

namespace sparsegrad::finetune::device {

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

}  // namespace sparsegrad::finetune::device
