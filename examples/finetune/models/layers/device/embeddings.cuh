#pragma once

#include "../embeddings.hpp"
#include "../placed_batch.hpp"
#include "layer_norm.cuh"

namespace sparsegrad::finetune::device {

/// The sums of the tokens' three rows.
template <class C>
struct EmbeddingSource {
  Array2<const C> word, position, type;
  const std::int32_t* ids;
  const std::int32_t* positions;
  const std::int32_t* types;

  struct Row {
    const C* word;
    const C* type;
    const C* position;
    template <int N>
    SPARSEGRAD_HOST_DEVICE Pack<C, N> at(index_t j) const {
      auto z = load_pack<C, N>(word + j);
      const auto t = load_pack<C, N>(type + j);
      const auto p = load_pack<C, N>(position + j);
      for (int e = 0; e < N; ++e)
        z.x[e] = z.x[e] + t.x[e] + p.x[e];
      return z;
    }
  };
  SPARSEGRAD_HOST_DEVICE Row row(index_t i) const {
    return {&word(ids[i], 0), &type(types[i], 0), &position(positions[i], 0)};
  }
};

/// sums.row(p) = sum of the rows of g of the tokens of piece p, N entries.
template <class T, int N>
struct SumPieces {
  using C = compute_t<T>;
  RowGroups groups;
  Array2<const T> g;
  Array2<C> sums;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t p, index_t pack) const {
    Pack<C, N> sum{};
    for (std::int32_t e = groups.piece_begin[p]; e < groups.piece_begin[p + 1]; ++e) {
      const auto v = load_pack<T, N>(&g(groups.order[e], pack * N));
      for (int i = 0; i < N; ++i)
        sum.x[i] += v.x[i];
    }
    store_pack<C, N>(&sums(p, pack * N), sum);
  }
};

/// The table's row of group u += the sums of its pieces, N entries.
template <class C, int N>
struct AddGroups {
  RowGroups groups;
  Array2<const C> sums;
  Array2<C> table;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t u, index_t pack) const {
    Pack<C, N> sum{};
    for (std::int32_t p = groups.group_begin[u]; p < groups.group_begin[u + 1]; ++p) {
      const auto v = load_pack<C, N>(&sums(p, pack * N));
      for (int i = 0; i < N; ++i)
        sum.x[i] += v.x[i];
    }
    C* const to = &table(groups.row[u], pack * N);
    auto row = load_pack<C, N>(to);
    for (int i = 0; i < N; ++i)
      row.x[i] += sum.x[i];
    store_pack<C, N>(to, row);
  }
};

/// The row of x of each sequence's first token = the sequence's row of `first`.
template <class T>
struct PutRow {
  Array2<const T> first;
  const std::int32_t* offsets;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t s, index_t j) const { x(offsets[s], j) = first(s, j); }
};

/// d_table.row(r) += sum of g's rows of the tokens that took row r; nothing for an empty table.
template <class System, class T>
void add_to_table(typename System::Context& ctx, const RowGroups& groups, MatrixView<const T> g,
                  MatrixView<compute_t<T>> d_table) {
  using C = compute_t<T>;
  if (d_table.empty()) return;
  auto frame = ctx.frame();
  const MatrixView<C> sums = frame.template matrix<C>(groups.pieces, g.cols);
  const auto run = [&](auto n, index_t packs) {
    launch_over_entries<System>(ctx, groups.pieces, packs, SumPieces<T, n()>{groups, g, sums});
    launch_over_entries<System>(ctx, groups.groups, packs,
                                AddGroups<C, n()>{groups, MatrixView<const C>(sums), d_table});
  };
  with_packs(g.cols, run, g, d_table);
}

}  // namespace sparsegrad::finetune::device
