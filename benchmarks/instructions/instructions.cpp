// Each of the library's own kernels once, on fixed inputs and one thread, for callgrind to count its instructions
// (check_instructions.py does that and compares them with counts.json). Dense products are Eigen's or the BLAS's and
// not counted. Without callgrind the program only runs.
//     valgrind --tool=callgrind --instr-atstart=no benchmark_instructions
//     benchmark_instructions --build       what the counts depend on
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

template <class Kernel>
void count(const char* name, Kernel&& kernel) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
  kernel();
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

/// Activations in 16 bits.
template <class S>
void low_precision(B::Context& ctx, const char* column_sums, const char* add_to_rows,
                   const char* sampled_product) {
  const Matrix x = normal(ctx, tokens, in, 30);
  const Matrix y = normal(ctx, tokens, out, 31);
  Buffer<S, B> x_low(ctx, tokens * in);
  Buffer<S, B> y_low(ctx, tokens * out);
  B::round_to<S>(ctx, x.matrix(tokens, in), x_low.matrix(tokens, in));
  B::round_to<S>(ctx, y.matrix(tokens, out), y_low.matrix(tokens, out));
  Matrix sums(ctx, out);
  Gradient s = support(ctx, 32);
  count(column_sums, [&] { B::column_sums<S>(ctx, y_low.matrix(tokens, out), sums.data()); });
  count(sampled_product, [&] {
    B::sampled_product<S>(ctx, y_low.matrix(tokens, out), x_low.matrix(tokens, in), s.indices(), s.count(),
                          in, s.values());
  });
  count(add_to_rows, [&] { B::add_to_rows<S>(ctx, x_low.data(), y_low.matrix(tokens, out)); });
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
  selection(ctx);
  optimizer(ctx);
  sparse_products(ctx);
  weight_update(ctx);
  transforms(ctx);
  elementwise(ctx);
  low_precision<bfloat16>(ctx, "column_sums_bfloat16", "add_to_rows_bfloat16", "sampled_product_bfloat16");
  low_precision<float16>(ctx, "column_sums_float16", "add_to_rows_float16", "sampled_product_float16");
}
