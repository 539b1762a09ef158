// Supports and entries: gather, scatter, sampled products, rows by list, groups of a support.
#pragma once

#include <thrust/scan.h>
#include <thrust/sort.h>

#include "block_sums.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

template <class T>
struct GatherElement {
  const T* x;
  const stored_index_t* index;
  T* value;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const { value[e] = x[index[e]]; }
};

template <class T>
struct ScatterElement {
  const T* value;
  const stored_index_t* index;
  T* x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const { x[index[e]] = value[e]; }
};

/// No two entries have the same place.
template <class T>
struct ScatterAddElement {
  const stored_index_t* row;
  const stored_index_t* col;
  const T* value;
  Array2<T> m;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const { m(row[e], col[e]) += value[e]; }
};

/// value[e] += sum_t A(t, i) B(t, j), in eight sums side by side.
template <class T>
struct SampledProductElement {
  Array2<const T> a;
  Array2<const T> b;
  index_t tokens, cols;
  const stored_index_t* index;
  compute_t<T>* value;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t i = index[e] / cols;
    const index_t j = index[e] % cols;
    compute_t<T> sum[8] = {};
    index_t t = 0;
    for (; t + 8 <= tokens; t += 8)
      for (int lane = 0; lane < 8; ++lane)
        sum[lane] += a(t + lane, i) * b(t + lane, j);
    for (; t < tokens; ++t)
      sum[0] += a(t, i) * b(t, j);
    value[e] += ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
};

/// First e in [0, n) with list[e] >= x, list rising.
SPARSEGRAD_HOST_DEVICE inline index_t lower_bound(const stored_index_t* list, index_t n, index_t x) {
  index_t first = 0;
  while (n > 0) {
    const index_t half = n / 2;
    if (list[first + half] < x) {
      first += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return first;
}

/// M(i, j) += sum of value[e] F(col[e], j) over the entries of row i, which stand together: no two
/// threads write the same place, and the order of the sum is fixed.
template <class T>
struct ExpandEntry {
  const stored_index_t* row;
  const stored_index_t* col;
  const T* value;
  index_t k;
  Array2<const T> f;
  Array2<T> m;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    index_t e = lower_bound(row, k, i);
    if (e == k || row[e] != i) return;
    T sum = 0;
    for (; e < k && row[e] == i; ++e)
      sum += value[e] * f(col[e], j);
    m(i, j) += sum;
  }
};

/// A block a group b (a row or a column of D): P.row(b) = sum of D(a, b) F.row(a) over the a where
/// that is not 0, by rising a.
template <class T>
struct ExpandNonzeros {
  using Sums = BlockSums<std::uint32_t>;
  static constexpr int threads = Sums::threads;
  static constexpr int phases = 6;
  static constexpr int most = 4096;  ///< entries of a group, zeros included
  struct Shared {
    Sums sums;
    std::uint32_t count;
    std::int32_t place[most];  // of those that are not 0
  };

  const T* d;
  index_t size;                    ///< of a group
  index_t step_within, step_next;  ///< in d, within a group and from one to the next
  Array2<const T> f;
  Array2<T> p;
  index_t cols;

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t group, int thread, Shared& shared) const {
    const T* own = d + group * step_next;
    const index_t each = (size + threads - 1) / threads;
    const index_t first = thread * each;
    const index_t end = first + each < size ? first + each : size;
    if constexpr (P == 0) {
      std::uint32_t count = 0;
      for (index_t a = first; a < end; ++a)
        count += own[a * step_within] != T(0) ? 1 : 0;
      shared.sums.sum[thread] = count;
    } else if constexpr (P == 1) {
      shared.sums.add_group(thread);
    } else if constexpr (P == 2) {
      if (thread == 0) shared.count = shared.sums.scan_groups(0);
    } else if constexpr (P == 3) {
      shared.sums.scan_threads(thread);
    } else if constexpr (P == 4) {
      std::uint32_t at = shared.sums.sum[thread];
      for (index_t a = first; a < end; ++a)
        if (own[a * step_within] != T(0)) shared.place[at++] = static_cast<std::int32_t>(a);
    } else {
      for (index_t j = thread; j < cols; j += threads) {
        T sum = 0;
        for (std::uint32_t e = 0; e < shared.count; ++e)
          sum += own[shared.place[e] * step_within] * f(shared.place[e], j);
        p(group, j) = sum;
      }
    }
  }
};

template <class T>
struct GatherRow {
  Array2<const T> f;
  const stored_index_t* list;
  Array2<T> p;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t s, index_t j) const { p(s, j) = f(list[s], j); }
};

template <class T>
struct AddColumn {
  Array2<const T> p;
  const stored_index_t* list;
  Array2<T> m;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t s) const { m(i, list[s]) += p(s, i); }
};

/// key[e] = the number of entry e's group, order[e] = e.
struct GroupKey {
  const stored_index_t* index;
  index_t cols;
  bool columns;
  stored_index_t* key;
  stored_index_t* order;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    key[e] = static_cast<stored_index_t>(columns ? index[e] % cols : index[e] / cols);
    order[e] = static_cast<stored_index_t>(e);
  }
};

/// head[p] = 1 where a group begins; other[p] = the entry's coordinate within its group.
struct GroupHead {
  const stored_index_t* index;
  index_t cols;
  bool columns;
  const stored_index_t* key;
  const stored_index_t* order;
  stored_index_t* head;
  stored_index_t* other;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t p) const {
    head[p] = p == 0 || key[p] != key[p - 1] ? 1 : 0;
    const index_t at = index[order[p]];
    other[p] = static_cast<stored_index_t>(columns ? at / cols : at % cols);
  }
};

/// group[p] counts the heads up to p: from there to the group's number, and the list of groups.
struct GroupNumber {
  const stored_index_t* key;
  stored_index_t* group;
  stored_index_t* list;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t p) const {
    group[p] -= 1;
    list[group[p]] = key[p];
  }
};

/// The contract's primitives of this kind. group_support waits for the number of groups.
template <class System>
struct Sparse {
  using Context = typename System::Context;

  template <class T>
  static void sampled_product(Context& ctx, MatrixView<const T> a, MatrixView<const T> b,
                              const stored_index_t* index, index_t k, index_t cols, compute_t<T>* value) {
    if (a.rows == 0) return;
    for_each_index<System>(ctx, k, SampledProductElement<T>{a, b, a.rows, cols, index, value});
  }
  template <class T>
  static void expand_rows(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, MatrixView<const T> f, MatrixView<T> m) {
    if (k == 0) return;
    for_each_entry<System>(ctx, m.rows, m.cols, ExpandEntry<T>{row, col, value, k, f, m});
  }
  template <class T>
  static void expand_nonzeros(Context& ctx, MatrixView<const T> d, bool columns, MatrixView<const T> f,
                              MatrixView<T> p) {
    if (p.empty()) return;
    const index_t size = columns ? d.rows : d.cols;
    System::launch(
        ctx, p.rows,
        ExpandNonzeros<T>{d.data, size, columns ? d.stride : 1, columns ? 1 : d.stride, f, p, p.cols});
  }
  static index_t group_support(Context& ctx, const stored_index_t* index, index_t k, index_t cols,
                               bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    if (k == 0) return 0;
    auto frame = ctx.frame();
    auto* key = frame.template take<stored_index_t>(k);
    for_each_index<System>(ctx, k, GroupKey{index, cols, columns, key, order});
    // By rows the support is in order as it is.
    if (columns) System::call([&] { thrust::stable_sort_by_key(System::policy(ctx), key, key + k, order); });
    for_each_index<System>(ctx, k, GroupHead{index, cols, columns, key, order, group, other});
    System::call([&] { thrust::inclusive_scan(System::policy(ctx), group, group + k, group); });
    for_each_index<System>(ctx, k, GroupNumber{key, group, list});
    return System::fetch(ctx, group + k - 1) + 1;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
