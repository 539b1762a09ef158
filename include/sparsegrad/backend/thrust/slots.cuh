// Merging a sparse gradient's support into the sorted support of a compact optimizer state.
#pragma once

#include <thrust/scan.h>

#include "elements.cuh"
#include "sparse.cuh"

namespace sparsegrad::backend::portable {

/// slot[e] = entries of `held` below index[e]; is_fresh[e] = 1 where index[e] is not held.
struct FindSlot {
  const stored_index_t* index;
  const stored_index_t* held;
  index_t n;
  stored_index_t* slot;
  stored_index_t* is_fresh;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t at = lower_bound(held, n, index[e]);
    slot[e] = static_cast<stored_index_t>(at);
    is_fresh[e] = at == n || held[at] != index[e] ? 1 : 0;
  }
};

/// count[e] = fresh entries up to and with e.
struct PlaceFresh {
  const stored_index_t* count;
  stored_index_t* slot;
  stored_index_t* fresh;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const stored_index_t before = e == 0 ? 0 : count[e - 1];
    slot[e] += before;
    if (count[e] != before) fresh[before] = static_cast<stored_index_t>(e);
  }
};

/// Array `x` of the state with room opened at the fresh entries' slots, written elsewhere. An old element moves up
/// by the number of fresh entries below it.
template <class X>
struct OpenOld {
  const stored_index_t* index;
  const stored_index_t* fresh;
  index_t q;
  const stored_index_t* held;
  const X* x;
  X* opened;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t j) const {
    index_t first = 0;
    index_t left = q;
    while (left > 0) {
      const index_t half = left / 2;
      if (index[fresh[first + half]] < held[j]) {
        first += half + 1;
        left -= half + 1;
      } else {
        left = half;
      }
    }
    opened[j + first] = x[j];
  }
};

/// The fresh elements: their positions in the array of positions, 0 in the others.
template <class X>
struct OpenFresh {
  const stored_index_t* index;  ///< null: 0
  const stored_index_t* slot;
  const stored_index_t* fresh;
  X* opened;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t f) const {
    opened[slot[fresh[f]]] = index == nullptr ? X(0) : static_cast<X>(index[fresh[f]]);
  }
};

/// The contract's locate_entries, which waits for the number of fresh entries, and insert_entries.
template <class System>
struct Slots {
  using Context = typename System::Context;

  static index_t find(Context& ctx, const stored_index_t* index, index_t k, const stored_index_t* held,
                      index_t n, stored_index_t* slot, stored_index_t* fresh) {
    if (k == 0) return 0;
    auto frame = ctx.frame();
    auto* count = frame.template take<stored_index_t>(k);
    for_each_index<System>(ctx, k, FindSlot{index, held, n, slot, count});
    System::call([&] { thrust::inclusive_scan(System::policy(ctx), count, count + k, count); });
    for_each_index<System>(ctx, k, PlaceFresh{count, slot, fresh});
    return System::fetch(ctx, count + k - 1);
  }

  template <class T>
  static void open(Context& ctx, const stored_index_t* index, const stored_index_t* slot,
                   const stored_index_t* fresh, index_t q, stored_index_t* held, index_t n, T* m, T* v,
                   std::int32_t* count) {
    if (q == 0) return;
    const auto open_array = [&]<class X>(X* x, const stored_index_t* fresh_values) {
      auto frame = ctx.frame();
      X* opened = frame.template take<X>(n + q);
      for_each_index<System>(ctx, n, OpenOld<X>{index, fresh, q, held, x, opened});
      for_each_index<System>(ctx, q, OpenFresh<X>{fresh_values, slot, fresh, opened});
      for_each_index<System>(ctx, n + q, CopyElement<X>{opened, x});
    };
    open_array(m, nullptr);
    open_array(v, nullptr);
    if (count != nullptr) open_array(count, nullptr);
    open_array(held, index);  // last: the others look old positions up in it
  }
};

}  // namespace sparsegrad::backend::portable
