// Bytes that the step of a given gradient moves, as a table: from dW's copy in a layer (add_gradient), and from dW where
// it stands (set_gradient). 768 -> 3072, 28 000 entries, dense products counted by their operands.
#include <sparsegrad/sparsegrad.hpp>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "data.hpp"

namespace {

using namespace sparsegrad;
using B = backend::Cpu;
using Matrix = Buffer<float, B>;

// BERT-base's wider matrix, the paper's number of entries, and a state that holds four times as many.
constexpr index_t out = 3072, in = 768, entries = 28000, pool = 4 * entries;

/// backend::Cpu that sums the bytes of the matrices its primitives take: read or written once, those added to twice.
/// Arrays of the kept entries are left out. The instructions of dense products are not counted.
struct Traffic : B {
  static inline double bytes = 0;

  template <class X>
  static void note(const X&) {}
  template <class X>
  static void note(const MatrixView<X>& m) {
    bytes += static_cast<double>(m.size()) * static_cast<double>(sizeof(X));
  }

  template <class T, class Left, class Right>
  static void gemm(Context& ctx, Op op_a, Op op_b, T alpha, const Left& a, const Right& b, T beta,
                   MatrixView<T> c) {
    note(a);
    note(b);
    note(c);
    if (beta != T(0)) note(c);
    B::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
  template <class T>
  static void top_k(Context& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    bytes += static_cast<double>(n) * static_cast<double>(sizeof(T));
    B::top_k<T>(ctx, x, n, k, index, value);
  }
  template <class T>
  static void add(Context& ctx, T alpha, ConstMatrixView<T> a, MatrixView<T> b) {
    note(b);
    note(a);
    note(b);
    B::add<T>(ctx, alpha, a, b);
  }
#define SPARSEGRAD_BENCH_NOTED(primitive)                        \
  template <class T, class... A>                                 \
  static decltype(auto) primitive(Context& ctx, A&&... a) {      \
    (note(a), ...);                                              \
    return B::template primitive<T>(ctx, std::forward<A>(a)...); \
  }
  SPARSEGRAD_BENCH_NOTED(copy)
  SPARSEGRAD_BENCH_NOTED(transpose)
  SPARSEGRAD_BENCH_NOTED(widen)
  SPARSEGRAD_BENCH_NOTED(hadamard)
  SPARSEGRAD_BENCH_NOTED(scale)
  SPARSEGRAD_BENCH_NOTED(scatter_add)
  SPARSEGRAD_BENCH_NOTED(expand_rows)
  SPARSEGRAD_BENCH_NOTED(gather_rows)
  SPARSEGRAD_BENCH_NOTED(add_columns)
#undef SPARSEGRAD_BENCH_NOTED
};

/// The optimizer step of a dW that the engine has computed, dense products apart: from dW's copy in a layer, and from dW
/// where it stands.
void steps_of_a_gradient(Traffic::Context& ctx) {
  using S = Traffic;
  using Basis = TuckerBasis<float, S>;
  using Side = BasisSide<float, S>;
  const Matrix even = bench::normal_matrix<B>(ctx, out, in, 0.5F, 30);
  const Matrix odd = bench::normal_matrix<B>(ctx, out, in, 0.5F, 31);
  Matrix w = bench::normal_matrix<B>(ctx, out, in, 0.5F, 32);
  std::printf("| step | bytes |\n|---|---|\n");
  // Two steps fill the optimizer's state; the third is counted.
  const auto third = [&](const std::string& name, const auto& step) {
    step(even);
    step(odd);
    S::bytes = 0;
    step(even);
    std::printf("| %s | %.0f |\n", name.c_str(), S::bytes);
  };
  const auto both = [&](const std::string& name, const std::shared_ptr<const Basis>& basis) {
    {
      SparseGradLinear<float, S> layer(ctx, w.matrix(out, in), nullptr);
      layer.set_basis(ctx, basis);
      SparseAdam<float, S> adam(ctx, basis->rows(), basis->cols(), {.capacity = pool});
      SparseGradient<float, S> s(ctx, basis->rows(), basis->cols(), entries);
      SparseGradient<float, S> d(ctx, basis->rows(), basis->cols(), entries);
      third("step_of_added_gradient_" + name, [&](const Matrix& dw) {
        layer.add_gradient(ctx, dw.matrix(out, in));
        layer.select(ctx, TopK{entries}, s);
        adam.step(ctx, s, {.learning_rate = 1e-4}, d);
        layer.apply(ctx, d);
        layer.clear();
      });
    }
    SparseGradGroup<float, S> group({.entries = entries});
    group.add_weight(ctx, w.matrix(out, in), "up");
    group.set_basis(ctx, 0, basis);
    third("step_of_given_gradient_" + name, [&](const Matrix& dw) {
      group.set_gradient(0, dw.matrix(out, in));
      group.step(ctx, {.learning_rate = 1e-4});
    });
  };
  const auto full = [&](index_t n, std::uint64_t seed) { return bench::stored_side<S>(ctx, n, n, seed); };
  both("both_sides_full", Basis::from_sides(full(out, 33), full(in, 34)));
  both("in_side_full", Basis::from_sides(Side::identity(out), full(in, 34)));
  both("no_basis", Basis::identity(out, in));
}

}  // namespace

int main() {
  Traffic::Context ctx(1);
  ctx.scratch().reserve(index_t{256} << 20);
  steps_of_a_gradient(ctx);
}
