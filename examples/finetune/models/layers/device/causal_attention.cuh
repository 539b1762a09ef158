// The decoder's attention (see causal_tiles.cuh), and what its kernels have room for.
#pragma once

#include <string>
#include <type_traits>

#include <sparsegrad/core/error.hpp>

#include "causal_backward.cuh"
#include "causal_tiles.cuh"

namespace sparsegrad::finetune::device {

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
