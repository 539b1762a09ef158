// Each of the library's own kernels once, on fixed inputs and one thread, for callgrind to count its instructions
// (check_instructions.py does that and compares them with counts.json). Dense products are Eigen's or the BLAS's and
// not counted. Without callgrind the program only runs.
//     valgrind --tool=callgrind --instr-atstart=no benchmark_instructions
//     benchmark_instructions --build       what the counts depend on
//     benchmark_instructions --bytes       bytes that steps from a given gradient move, as a table; no kernels. Under
//                                          callgrind their instructions, which takes minutes
#include <sparsegrad/sparsegrad.hpp>

#include <gnu/libc-version.h>
#include <valgrind/callgrind.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../data.hpp"

namespace {

using namespace sparsegrad;
using B = backend::Cpu;
using Matrix = Buffer<float, B>;
using Gradient = SparseGradient<float, B>;
using Positions = std::vector<stored_index_t>;

// BERT-base's wider matrix, the paper's number of entries, and a state that holds four times as many.
constexpr index_t out = 3072, in = 768, size = out * in, entries = 28000, pool = 4 * entries, tokens = 512;

/// What a kernel returns: kept, so that it is computed.
volatile double result;
/// Whether instructions are being counted.
bool counting = false;

template <class Kernel>
void count(const char* name, Kernel&& kernel) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  counting = true;
  kernel();
  counting = false;
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
}

Matrix normal(B::Context& ctx, index_t rows, index_t cols, std::uint64_t seed) {
  return bench::normal_matrix<B>(ctx, rows, cols, 0.5F, seed);
}

Gradient support(B::Context& ctx, std::uint64_t seed) {
  return bench::random_support<B>(ctx, out, in, entries, pool, seed);
}

void selection(B::Context& ctx) {
  Matrix x = normal(ctx, out, in, 1);
  Gradient s(ctx, out, in, entries);
  count("top_k", [&] { TopK{entries}(ctx, x.matrix(out, in), s); });

  // Few different values and many wanted: no sampled threshold helps, histograms find it.
  for (index_t i = 0; i < size; ++i)
    x.data()[i] = static_cast<float>(i * 7919 % 64);
  Gradient many(ctx, out, in, size / 4);
  count("top_k_of_ties", [&] { TopK{size / 4}(ctx, x.matrix(out, in), many); });
}

void optimizer(B::Context& ctx) {
  const Gradient first = support(ctx, 1);
  const Gradient second = support(ctx, 2);
  const Gradient third = support(ctx, 3);
  Positions place(entries * 2), added(entries * 2), held(pool);
  std::copy_n(first.indices(), first.count(), held.data());
  Matrix m(ctx, pool);
  Matrix v(ctx, pool);
  index_t q = 0;
  count("locate_entries", [&] {
    q = B::locate_entries(ctx, second.indices(), second.count(), held.data(), first.count(), place.data(),
                          added.data());
  });
  count("insert_entries", [&] {
    B::insert_entries<float>(ctx, second.indices(), place.data(), added.data(), q, held.data(), first.count(),
                             m.data(), v.data(), nullptr);
  });

  Gradient update(ctx, out, in, 2 * entries);
  const auto step = [&](const char* name, AdamSemantics semantics) {
    SparseAdam<float, B> adam(ctx, out, in, {.semantics = semantics, .capacity = pool});
    adam.step(ctx, first, {}, update);
    adam.step(ctx, second, {}, update);
    count(name, [&] { adam.step(ctx, third, {}, update); });
  };
  step("sparse_adam_step", AdamSemantics::torch);
  step("sparse_adam_step_per_entry", AdamSemantics::per_entry_step);

  // A full state that forgets as many entries as the third support brings.
  SparseAdam<float, B> full(ctx, out, in,
                            {.capacity = 3 * entries / 2, .overflow = Overflow::evict_smallest});
  full.step(ctx, first, {}, update);
  full.step(ctx, second, {}, update);
  count("evict", [&] { full.step(ctx, third, {}, update); });

  // All moments of a small core move.
  constexpr index_t small = 64;
  const auto part = bench::random_support<B>(ctx, out, small, entries, 2 * entries, 20);
  SparseAdam<float, B> core(ctx, out, small, {.semantics = AdamSemantics::dense_core});
  Gradient all(ctx, out, small, out * small);
  count("dense_core", [&] { core.step(ctx, part, {}, all); });
}

void sparse_products(B::Context& ctx) {
  const Gradient d = support(ctx, 4);
  const Matrix dy = normal(ctx, tokens, out, 5);
  const Matrix x = normal(ctx, tokens, in, 6);
  Matrix value(ctx, d.count());
  count("sampled_product", [&] {
    B::sampled_product<float>(ctx, dy.matrix(tokens, out), x.matrix(tokens, in), d.indices(), d.count(), in,
                              value.data());
  });

  Positions group(entries * 2), other(entries * 2), order(entries * 2), list(out);
  for (const bool columns : {false, true}) {
    count(columns ? "group_support_columns" : "group_support_rows", [&] {
      result = static_cast<double>(B::group_support(ctx, d.indices(), d.count(), out, in, columns,
                                                    group.data(), other.data(), order.data(), list.data()));
    });
  }
  Positions row, col;
  for (index_t e = 0; e < d.count(); ++e) {
    row.push_back(static_cast<stored_index_t>(d.indices()[e] / in));
    col.push_back(static_cast<stored_index_t>(d.indices()[e] % in));
  }
  const auto side = bench::stored_side<B>(ctx, in, in, 7);
  Matrix w = normal(ctx, out, in, 8);
  count("expand_rows", [&] {
    B::expand_rows<float>(ctx, row.data(), col.data(), d.values(), d.count(), side.factor(),
                          w.matrix(out, in));
  });
  // Every second row of W, or column of its transpose.
  Positions half;
  for (index_t i = 0; i < out; i += 2)
    half.push_back(static_cast<stored_index_t>(i));
  const auto rows = static_cast<index_t>(half.size());
  Matrix panel = normal(ctx, rows, in, 20);
  Matrix across = normal(ctx, in, out, 21);
  count("gather_rows",
        [&] { B::gather_rows<float>(ctx, w.matrix(out, in), half.data(), rows, panel.matrix(rows, in)); });
  count("add_columns",
        [&] { B::add_columns<float>(ctx, panel.matrix(rows, in), half.data(), across.matrix(in, out)); });
  count("gather", [&] { B::gather<float>(ctx, w.data(), d.indices(), d.count(), value.data()); });
  count("scatter", [&] { B::scatter<float>(ctx, value.data(), d.indices(), d.count(), w.data()); });
}

/// The weight updates that take no dense product.
void weight_update(B::Context& ctx) {
  using Basis = TuckerBasis<float, B>;
  using Side = BasisSide<float, B>;
  const Gradient d = support(ctx, 9);
  Matrix w = normal(ctx, out, in, 10);
  const auto apply = [&](const char* name, const auto& basis, WeightLayout layout) {
    const bool out_in = layout == WeightLayout::out_in;
    count(name, [&] {
      add_expanded<float, B>(ctx, *basis, d, layout, out_in ? w.matrix(out, in) : w.matrix(in, out));
    });
  };
  const auto one_sided = Basis::from_sides(Side::identity(out), bench::stored_side<B>(ctx, in, in, 11));
  apply("add_expanded_no_rotation", Basis::identity(out, in), WeightLayout::out_in);
  apply("add_expanded_one_sided", one_sided, WeightLayout::out_in);
  apply("add_expanded_one_sided_in_out", one_sided, WeightLayout::in_out);
  const auto fast = Basis::from_sides(Side::hadamard(ctx, out, 12), Side::hadamard(ctx, in, 13));
  apply("add_expanded_hadamard", fast, WeightLayout::out_in);

  // A dense update, for a weight stored the other way round.
  Gradient all(ctx, out, in, size);
  all.set_count(size);
  const Matrix values = normal(ctx, out, in, 22);
  std::copy_n(values.data(), size, all.values());
  count("expand_dense",
        [&] { add_expanded<float, B>(ctx, *fast, all, WeightLayout::in_out, w.matrix(in, out)); });
}

void transforms(B::Context& ctx) {
  Matrix x = normal(ctx, out, in, 14);
  const auto rows = BasisSide<float, B>::hadamard(ctx, in, 15);
  const auto columns = BasisSide<float, B>::hadamard(ctx, out, 16);
  count("hadamard_rows",
        [&] { B::hadamard<float>(ctx, rows.signs(), false, TransformSide::rows, x.matrix(out, in)); });
  count("hadamard_columns",
        [&] { B::hadamard<float>(ctx, columns.signs(), false, TransformSide::columns, x.matrix(out, in)); });
}

/// What the accumulator and the layer do beside products.
void elementwise(B::Context& ctx) {
  Matrix x = normal(ctx, out, in, 17);
  Matrix y = normal(ctx, out, in, 18);
  Buffer<double, B> wide(ctx, size);
  Matrix line = normal(ctx, 1, in, 19);
  count("squared_norm", [&] { result = B::squared_norm<float>(ctx, x.matrix(out, in)); });
  count("first_nonfinite",
        [&] { result = static_cast<double>(B::first_nonfinite<float>(ctx, x.matrix(out, in))); });
  count("add_wide", [&] { B::add_wide<float>(ctx, 0.5, x.matrix(out, in), wide.matrix(out, in)); });
  count("add", [&] { B::add<float>(ctx, 0.5F, x.matrix(out, in), y.matrix(out, in)); });
  count("column_sums", [&] { B::column_sums<float>(ctx, x.matrix(out, in), line.data()); });
  count("add_to_rows", [&] { B::add_to_rows<float>(ctx, line.data(), x.matrix(out, in)); });
  count("transpose", [&] { B::transpose<float>(ctx, x.matrix(out, in), y.matrix(in, out)); });

  // Gradients in 16 bits.
  const auto convert = [&]<class S>(const char* widen, const char* round_to) {
    Buffer<S, B> low(ctx, size);
    count(round_to, [&] { B::round_to<S>(ctx, x.matrix(out, in), low.matrix(out, in)); });
    count(widen, [&] { B::widen<S>(ctx, low.matrix(out, in), y.matrix(out, in)); });
  };
  convert.operator()<bfloat16>("widen_bfloat16", "round_to_bfloat16");
  convert.operator()<float16>("widen_float16", "round_to_float16");
}

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
    const bool paused = counting;
    if (paused) CALLGRIND_STOP_INSTRUMENTATION;
    note(a);
    note(b);
    note(c);
    if (beta != T(0)) note(c);
    B::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    if (paused) CALLGRIND_START_INSTRUMENTATION;
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
  const Matrix even = normal(ctx, out, in, 30);
  const Matrix odd = normal(ctx, out, in, 31);
  Matrix w = normal(ctx, out, in, 32);
  std::printf("| step | bytes |\n|---|---|\n");
  // Two steps fill the optimizer's state; the third is counted.
  const auto third = [&](const std::string& name, const auto& step) {
    step(even);
    step(odd);
    S::bytes = 0;
    count(name.c_str(), [&] { step(even); });
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

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--build") {
#if defined(__clang__)
    std::printf("clang++ " __clang_version__);
#else
    std::printf("g++ " __VERSION__);
#endif
    std::printf(", glibc %s\n", gnu_get_libc_version());
    return 0;
  }
  B::Context ctx(1);
  ctx.scratch().reserve(index_t{256} << 20);
  if (argc > 1 && std::string(argv[1]) == "--bytes") {
    steps_of_a_gradient(ctx);
    return 0;
  }
  selection(ctx);
  optimizer(ctx);
  sparse_products(ctx);
  weight_update(ctx);
  transforms(ctx);
  elementwise(ctx);
}
