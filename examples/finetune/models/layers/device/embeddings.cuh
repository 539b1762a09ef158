#pragma once

#include "../embeddings.hpp"
#include "../placed_batch.hpp"
#include "layer_norm.cuh"

namespace sparsegrad::finetune::device {

/// The sum of a token's three rows.
template <class T>
struct EmbeddingSource {
  Array2<const T> word, position, type;
  const std::int32_t* ids;
  const std::int32_t* positions;
  const std::int32_t* types;
  SPARSEGRAD_HOST_DEVICE T operator()(index_t i, index_t j) const {
    return word(ids[i], j) + type(types[i], j) + position(positions[i], j);
  }
};

/// sums.row(p) = sum of the rows of g of the tokens of piece p.
template <class T>
struct SumPieces {
  using C = compute_t<T>;
  RowGroups groups;
  Array2<const T> g;
  Array2<C> sums;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t p, index_t j) const {
    C sum = 0;
    for (std::int32_t e = groups.piece_begin[p]; e < groups.piece_begin[p + 1]; ++e)
      sum += g(groups.order[e], j);
    sums(p, j) = sum;
  }
};

/// The table's row of group u += the sums of its pieces.
template <class T>
struct AddGroups {
  RowGroups groups;
  Array2<const T> sums;
  Array2<T> table;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t u, index_t j) const {
    T sum = 0;
    for (std::int32_t p = groups.group_begin[u]; p < groups.group_begin[u + 1]; ++p)
      sum += sums(p, j);
    table(groups.row[u], j) += sum;
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
  launch_over_entries<System>(ctx, groups.pieces, g.cols, SumPieces<T>{groups, g, sums});
  launch_over_entries<System>(ctx, groups.groups, g.cols,
                              AddGroups<C>{groups, MatrixView<const C>(sums), d_table});
}

}  // namespace sparsegrad::finetune::device
