// Merging a sparse gradient's support into the sorted support of a compact optimizer state.
#pragma once

#include <thrust/scan.h>

#include "elements.cuh"
#include "sparse.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// place[e] = entries of `held` below index[e]; is_added[e] = 1 where index[e] is not held.
struct FindPlace {
  const stored_index_t* index;
  const stored_index_t* held;
  index_t n;
  stored_index_t* place;
  stored_index_t* is_added;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t at = lower_bound(held, n, index[e]);
    place[e] = static_cast<stored_index_t>(at);
    is_added[e] = at == n || held[at] != index[e] ? 1 : 0;
  }
};

/// count[e] = added entries up to and with e.
struct PlaceAdded {
  const stored_index_t* count;
  stored_index_t* place;
  stored_index_t* added;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const stored_index_t before = e == 0 ? 0 : count[e - 1];
    place[e] += before;
    if (count[e] != before) added[before] = static_cast<stored_index_t>(e);
  }
};

/// Array `x` of the state with room opened at the added entries' places, written elsewhere. An old
/// element moves up by the number of added entries below it.
template <class X>
struct MoveHeld {
  const stored_index_t* index;
  const stored_index_t* added;
  index_t q;
  const stored_index_t* held;
  const X* x;
  X* opened;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t j) const {
    index_t first = 0;
    index_t left = q;
    while (left > 0) {
      const index_t half = left / 2;
      if (index[added[first + half]] < held[j]) {
        first += half + 1;
        left -= half + 1;
      } else {
        left = half;
      }
    }
    opened[j + first] = x[j];
  }
};

/// The added elements: their positions in the array of positions, 0 in the others.
template <class X>
struct InsertAdded {
  const stored_index_t* index;  ///< null: 0
  const stored_index_t* place;
  const stored_index_t* added;
  X* opened;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t f) const {
    opened[place[added[f]]] = index == nullptr ? X(0) : static_cast<X>(index[added[f]]);
  }
};

/// The contract's locate_entries, which waits for the number of added entries, and insert_entries.
template <class System>
struct Entries {
  using Context = typename System::Context;

  static index_t locate(Context& ctx, const stored_index_t* index, index_t k, const stored_index_t* held,
                        index_t n, stored_index_t* place, stored_index_t* added) {
    if (k == 0) return 0;
    auto frame = ctx.frame();
    auto* count = frame.template take<stored_index_t>(k);
    for_each_index<System>(ctx, k, FindPlace{index, held, n, place, count});
    System::call([&] { thrust::inclusive_scan(System::policy(ctx), count, count + k, count); });
    for_each_index<System>(ctx, k, PlaceAdded{count, place, added});
    return System::fetch(ctx, count + k - 1);
  }

  template <class T>
  static void insert(Context& ctx, const stored_index_t* index, const stored_index_t* place,
                     const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m, T* v,
                     std::int32_t* count) {
    if (q == 0) return;
    const auto insert_into = [&]<class X>(X* x, const stored_index_t* added_values) {
      auto frame = ctx.frame();
      X* opened = frame.template take<X>(n + q);
      for_each_index<System>(ctx, n, MoveHeld<X>{index, added, q, held, x, opened});
      for_each_index<System>(ctx, q, InsertAdded<X>{added_values, place, added, opened});
      for_each_index<System>(ctx, n + q, CopyElement<X>{opened, x});
    };
    insert_into(m, nullptr);
    insert_into(v, nullptr);
    if (count != nullptr) insert_into(count, nullptr);
    insert_into(held, index);  // last: the others look old positions up in it
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
