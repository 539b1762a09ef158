#include "sparsegrad/weight_update.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

/// Counts the ways back that took D's entries one by one: only these group them.
template <class Base>
struct Counting : Base {
  static inline int grouped = 0;

  static index_t group_support(typename Base::Context& ctx, const stored_index_t* index, index_t k,
                               index_t rows, index_t cols, bool columns, stored_index_t* group,
                               stored_index_t* other, stored_index_t* order, stored_index_t* list) {
    ++grouped;
    return Base::group_support(ctx, index, k, rows, cols, columns, group, other, order, list);
  }
};

template <class B>
struct AlwaysDense : Counting<B> {
  static constexpr double dense_above_density = 0;
};

template <class T, class B>
BasisSide<T, B> side_of(typename B::Context& ctx, SideKind kind, index_t extent, index_t rank,
                        std::uint64_t seed) {
  if (kind == SideKind::identity) return BasisSide<T, B>::identity(extent);
  if (kind == SideKind::hadamard) return BasisSide<T, B>::hadamard(ctx, extent, seed);
  return BasisSide<T, B>::random(ctx, extent, rank, seed);
}

/// A side's matrix [extent, rank], column by column.
template <class T, class B>
Matrix<T> matrix_of(typename B::Context& ctx, const BasisSide<T, B>& side) {
  Matrix<T> unit(side.rank(), side.rank());
  for (index_t i = 0; i < side.rank(); ++i)
    unit(i, i) = 1;
  Matrix<T> u(side.extent(), side.rank());
  side.expand_rows(ctx, unit.view(), T(0), u.view());
  return u;
}

SideShape shape(SideKind kind, index_t extent, index_t rank) {
  return {kind, extent, rank};
}

}  // namespace

TEST_CASE_TEMPLATE("a sparse update entry by entry and as a dense matrix: the same weight", S,
                   SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = Counting<typename S::B>;
  using Dense = AlwaysDense<typename S::B>;
  typename B::Context ctx(2);
  constexpr SideKind kinds[] = {SideKind::identity, SideKind::random, SideKind::hadamard};
  for (const auto& extents : {std::pair<index_t, index_t>{70, 37}, {33, 140}}) {
    const index_t out = extents.first;
    const index_t in = extents.second;
    for (const SideKind out_kind : kinds) {
      for (const SideKind in_kind : kinds) {
        if (out_kind == SideKind::identity && in_kind == SideKind::identity) continue;
        for (const auto& ranks : {std::pair<index_t, index_t>{out, in}, {9, 5}}) {
          const index_t out_rank = ranks.first;
          const index_t in_rank = ranks.second;
          const auto basis = TuckerBasis<T, B>::from_sides(side_of<T, B>(ctx, out_kind, out, out_rank, 1),
                                                           side_of<T, B>(ctx, in_kind, in, in_rank, 2));
          const auto same =
              TuckerBasis<T, Dense>::from_sides(side_of<T, Dense>(ctx, out_kind, out, out_rank, 1),
                                                side_of<T, Dense>(ctx, in_kind, in, in_rank, 2));
          const Matrix<T> v = matrix_of<T, B>(ctx, basis->out());
          const Matrix<T> u = matrix_of<T, B>(ctx, basis->in());
          const index_t size = basis->rows() * basis->cols();
          // One entry; every 23rd, which leaves rows and columns out; 1 in 3; nearly all.
          for (const index_t every : {size, index_t{23}, index_t{3}, index_t{1}}) {
            Matrix<T> core(basis->rows(), basis->cols());
            const Matrix<T> numbers = random_matrix<T>(basis->rows(), basis->cols(), 3);
            std::vector<stored_index_t> index;
            std::vector<T> value;
            for (index_t e = every / 2; e < size - 1; e += every) {
              index.push_back(static_cast<stored_index_t>(e));
              value.push_back(numbers.data[static_cast<std::size_t>(e)]);
              core.data[static_cast<std::size_t>(e)] = value.back();
            }
            const auto count = static_cast<index_t>(index.size());
            SparseGradient<T, B> d(ctx, basis->rows(), basis->cols(), count);
            d.assign(ctx, index, value);
            SparseGradient<T, Dense> d_dense(ctx, basis->rows(), basis->cols(), count);
            d_dense.assign(ctx, index, value);
            const Matrix<double> update = product(product(v, core), u, false, true);
            for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
              const bool turned = layout == WeightLayout::in_out;
              const Matrix<T> before = turned ? random_matrix<T>(in, out, 4) : random_matrix<T>(out, in, 4);
              Matrix<double> want(before.rows, before.cols);
              for (index_t i = 0; i < want.rows; ++i)
                for (index_t j = 0; j < want.cols; ++j)
                  want(i, j) = static_cast<double>(before(i, j)) + (turned ? update(j, i) : update(i, j));
              CAPTURE(out);
              CAPTURE(std::string(to_string(out_kind)));
              CAPTURE(std::string(to_string(in_kind)));
              CAPTURE(out_rank);
              CAPTURE(count);
              CAPTURE(turned);
              const bool scattered = !basis->out().has_factor() && !basis->in().has_factor() && !turned;
              Matrix<T> w = before;
              const int grouped = B::grouped;
              // Entries that cost nothing: one by one.
              add_expanded<T, B>(ctx, *basis, d, layout, w.view(), {.sparse_entry = 0});
              CHECK(B::grouped == grouped + (scattered || count == 0 ? 0 : 1));
              CHECK(max_difference(w, want) <= 300 * S::eps);
              w = before;
              const int so_far = Dense::grouped;
              add_expanded<T, Dense>(ctx, *same, d_dense, layout, w.view(), {.sparse_entry = 0});
              CHECK(Dense::grouped == so_far);
              CHECK(max_difference(w, want) <= 300 * S::eps);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("V D U^T of a sparse D: entry by entry or dense") {
  const SideShape none = shape(SideKind::identity, 3072, 3072);
  const SideShape none_768 = shape(SideKind::identity, 768, 768);
  const auto factor = [](index_t extent, index_t rank) { return shape(SideKind::factor, extent, rank); };
  const auto share = [](double density, index_t rows, index_t cols) {
    return static_cast<index_t>(density * static_cast<double>(rows * cols));
  };
  // Columns of W rotated: rows of D go straight into rows of W, up to densities of a third.
  for (const index_t rank : {64, 256, 768}) {
    CHECK(!expands_dense(none, factor(768, rank), share(0.01, 3072, rank)));
    CHECK(!expands_dense(none, factor(768, rank), share(0.2, 3072, rank)));
    CHECK(expands_dense(none, factor(768, rank), share(0.5, 3072, rank)));
  }
  // Rows of W rotated, by way of a panel: with a rank of 64 only for few entries.
  CHECK(!expands_dense(factor(768, 64), none, share(0.005, 64, 3072)));
  CHECK(expands_dense(factor(768, 64), none, 28000));
  CHECK(!expands_dense(factor(768, 768), none, 28000));
  CHECK(!expands_dense(factor(768, 768), none, share(0.1, 768, 3072)));
  CHECK(expands_dense(factor(768, 768), none, share(0.5, 768, 3072)));
  CHECK(expands_dense(factor(3072, 64), none_768, share(0.1, 64, 768)));
  // Both.
  CHECK(!expands_dense(factor(3072, 3072), factor(768, 768), 28000));
  CHECK(expands_dense(factor(3072, 64), factor(768, 64), share(0.5, 64, 64)));
  // Nothing but fast transforms: no product that a dense D would save.
  CHECK(!expands_dense(shape(SideKind::hadamard, 3072, 3072), shape(SideKind::hadamard, 768, 768),
                       share(0.9, 3072, 768)));
  // The weights decide.
  CHECK(expands_dense(none, factor(768, 768), 280000, {.sparse_entry = 1000}));
  CHECK(!expands_dense(none, factor(768, 768), share(0.99, 3072, 768), {.sparse_entry = 0}));
}

TEST_CASE("the weight decays first: (1 - decay) W + V D U^T") {
  using B = backend::Reference;
  B::Context ctx;
  std::vector<double> w{1, -2, 3, 4, -5, 6};
  SparseGradient<double, B> d(ctx, 2, 3, 2);
  d.assign(ctx, std::vector<stored_index_t>{1, 5}, std::vector<double>{10, 20});
  const TrainedWeight<double> weight({w.data(), 2, 3}, WeightLayout::out_in);
  update_weight<double, B>(ctx, weight, *TuckerBasis<double, B>::identity(2, 3), d, 0.25);
  CHECK(w == std::vector<double>{0.75, 8.5, 2.25, 3, -3.75, 24.5});
}
