#pragma once

#include "attention_tiles.cuh"

namespace sparsegrad::finetune::device {

/// O = mask softmax(q k^T scale) v over the keys that a query sees, and the logarithms of the rows' sums. What was summed
/// is corrected where a panel has a larger score than those before it (Milakov and Gimelshein 2018; Dao et al. 2022).
template <class T, int Width, class Pattern>
struct AttentionForward : AttentionTiles<T, Width, Pattern> {
  using Base = AttentionTiles<T, Width, Pattern>;
  using Base::panel;
  using Base::side;
  using C = typename Base::C;
  using Place = typename Base::Place;
  struct alignas(16) Shared {
    typename Base::Own q;
    typename Base::Panel k[Base::buffers];
    typename Base::Panel v[Base::buffers];
    C exchange[Base::warps][Base::Product::template exchange<panel>];
  };

  Array2<T> out;
  C* log_sums;  ///< [heads, tokens]; null: not wanted

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int number, Shared& shared) const {
    const BlockThread thread(number, Base::threads);
    const Place at = this->grid.place(block);
    const int rows = at.sequence.queries * this->group();
    const int begin = at.piece * Base::own;
    if (begin >= rows || !thread.works()) return;
    const int keys = this->seen_by(at, Base::at_most(begin + Base::own, rows) - 1);

    State state[Base::warps_here];
    for (int w = 0; w < Base::warps_here; ++w) {
      const int first = begin + (first_warp(number) + w) * side;
      state[w].sums.clear();
      state[w].most = WarpRows<C>::of([](int) { return -INFINITY; });
      state[w].sum = WarpRows<C>::of([](int) { return C(0); });
      state[w].seen = WarpRows<int>::of([&](int row) { return this->seen_by(at, first + row); });
      state[w].seen_by_all = this->seen_by(at, first);
      state[w].row_key = WarpRows<std::uint64_t>::of(
          [&](int row) { return this->pattern.row_key(this->place_of(at, first + row)); });
    }
    this->stage([&](int r) { return this->row_of(this->grid.qkv, at, r); }, begin, rows, thread, shared.q);
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
      const State& made = state[w];
      this->write(
          state[w].sums, [&](int slot) { return C(1) / made.sum[slot]; }, &shared.q[warp * side][0],
          rows - first, [&](int r) { return this->row_of(out, at, first + r); });
      if (log_sums == nullptr || lane_of_row() != 0) continue;
      for (int slot = 0; slot < WarpRows<C>::slots; ++slot) {
        const int r = first + WarpRows<C>::row(slot);
        if (r < rows)
          log_sums[this->place_of(at, r)] = this->scale * made.most[slot] + std::log(made.sum[slot]);
      }
    }
  }

 private:
  struct State {
    typename Base::Sums sums;
    WarpRows<C> most, sum;
    WarpRows<int> seen;  ///< keys that each row sees
    int seen_by_all;
    WarpRows<std::uint64_t> row_key;
  };

  SPARSEGRAD_HOST_DEVICE void add_panel(int j, int warp, Shared& shared, int buffer, State& state) const {
    typename Base::Scores scores;
    scores.clear();
    Base::Product::template add_transposed<Width>(&shared.q[warp * side][0], &shared.k[buffer][0][0],
                                                  Base::stride, scores);
    if (j + panel > state.seen_by_all) {
      scores.visit([&](int slot, int, int col, C& x) {
        if (j + col >= state.seen[slot]) x = -INFINITY;
      });
    }
    // Every row sees the first key, so that `most` is finite from the first panel on.
    const C factor = this->scale * Base::unit;
    const WarpRows<C> before = state.most;
    scores.fold_rows(state.most, Larger(), -INFINITY);
    const WarpRows<C> shift = WarpRows<C>::each([&](int slot) { return factor * state.most[slot]; });
    scores.visit([&](int slot, int, int, C& x) { x = Base::exponential(factor * x - shift[slot]); });
    WarpRows<C> sum = WarpRows<C>::of([](int) { return C(0); });
    scores.fold_rows(sum, Plus(), C(0));
    const WarpRows<C> correction =
        WarpRows<C>::each([&](int slot) { return Base::exponential(factor * before[slot] - shift[slot]); });
    for (int slot = 0; slot < WarpRows<C>::slots; ++slot)
      state.sum[slot] = state.sum[slot] * correction[slot] + sum[slot];
    state.sums.visit([&](int slot, int, int, C& x) { x *= correction[slot]; });
    if (this->pattern.drops()) {
      scores.visit(
          [&](int slot, int, int col, C& x) { x *= this->pattern.multiplier(state.row_key[slot], j + col); });
    }
    Base::Product::template add<panel>(scores, &shared.v[buffer][0][0], Base::stride, shared.exchange[warp],
                                       state.sums);
  }
};

}  // namespace sparsegrad::finetune::device
