// Nothing allocates after a first pass with the largest sizes.
#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>

#include "support/allocation_counter.hpp"

namespace sparsegrad {
namespace {

using test::AllocationMark;

// Where the compiler cannot see that the memory is not needed.
void* volatile hidden;
void* kept(void* p) {
  hidden = p;
  return p;
}

TEST_CASE("the counter sees every way to allocate, on every thread") {
  if (!test::counts_allocations) return;
  const auto seen = [](auto&& f) {
    const AllocationMark mark;
    f();
    return mark.count();
  };
  CHECK(seen([] {}) == 0);
  CHECK(seen([] { std::free(kept(std::malloc(100))); }) == 1);
  CHECK(seen([] { std::free(kept(std::calloc(3, 100))); }) == 1);
  CHECK(seen([] { std::free(kept(std::realloc(kept(std::malloc(10)), 10000))); }) == 2);
  CHECK(seen([] { std::free(kept(std::aligned_alloc(64, 128))); }) == 1);
  CHECK(seen([] {
          void* p = nullptr;
          if (posix_memalign(&p, 64, 100) == 0) std::free(kept(p));
        }) == 1);
  CHECK(seen([] { ::operator delete(kept(::operator new(100))); }) >= 1);
  CHECK(seen([] {
          ::operator delete (kept(::operator new (100, std::align_val_t{64})), std::align_val_t{64});
        }) >= 1);
  CHECK(seen([] { std::thread([] { std::free(kept(std::malloc(100))); }).join(); }) >= 2);
}

/// One of everything that a training step calls, on the leading part of fixed arrays.
template <class B, class T>
struct Work {
  using Context = typename B::Context;
  static constexpr index_t largest = 420;

  std::vector<T> x, y, z, w, out, signs, value, m, v, d, sums;
  std::vector<double> g;
  std::vector<stored_index_t> index, group, other, order, list;
  std::vector<std::int32_t> count;

  Work() {
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<T>& a) {
      a.resize(largest * largest);
      for (T& e : a)
        e = static_cast<T>(normal(random));
    };
    for (std::vector<T>* a : {&x, &y, &z, &w, &out, &value, &m, &v, &d})
      fill(*a);
    for (T& e : v)
      e = e * e;
    signs.assign(largest, T(1));
    sums.assign(largest, T(0));
    g.assign(largest * largest, 0.0);
    for (std::vector<stored_index_t>* a : {&index, &group, &other, &order, &list})
      a->resize(largest * largest);
    count.assign(largest * largest, 1);
  }

  void run(Context& ctx, index_t tokens, index_t rows, index_t cols) {
    const MatrixView<const T> a(x.data(), tokens, rows);
    const MatrixView<const T> b(y.data(), tokens, cols);
    const MatrixView<T> core(z.data(), rows, cols);
    const MatrixView<T> weight(w.data(), rows, cols);
    const MatrixView<double> sum(g.data(), rows, rows);
    B::template zero<T>(ctx, z.data(), rows * cols);
    B::template gemm<T>(ctx, Op::transpose, Op::none, T(1), a, b, T(0), core);
    B::template gram<T>(ctx, Op::none, MatrixView<const T>(core), 1.0, sum);
    B::template column_sums<T>(ctx, b, sums.data());
    B::template hadamard<T>(ctx, signs.data(), false, TransformSide::rows, core);
    B::template hadamard<T>(ctx, signs.data(), false, TransformSide::columns, core);
    CHECK(B::template first_nonfinite<T>(ctx, core) == -1);
    CHECK(B::template squared_norm<T>(ctx, core) > 0);
    const index_t k = rows * cols / 50;
    B::template top_k<T>(ctx, z.data(), rows * cols, k, index.data(), value.data());
    B::template sampled_product<T>(ctx, a, b, index.data(), k, cols, value.data());
    AdamCoefficients c;
    c.learning_rate = 1e-3;
    B::template adam<T>(ctx, c, value.data(), index.data(), k, m.data(), v.data(), count.data(), d.data());
    const index_t groups = B::group_support(ctx, index.data(), k, rows, cols, true, group.data(),
                                            other.data(), order.data(), list.data());
    B::template expand_rows<T>(ctx, group.data(), other.data(), d.data(), k,
                               MatrixView<const T>(x.data(), rows, 64),
                               MatrixView<T>(out.data(), groups, 64));
    B::template transpose<T>(ctx, core, MatrixView<T>(out.data(), cols, rows));
    B::template scale<T>(ctx, T(0.5), weight);
    B::template add<T>(ctx, T(0.5), core, weight);
  }
};

TEST_CASE_TEMPLATE("a step's primitives allocate nothing once warm", B, backend::Cpu, backend::CpuBlas) {
  Work<B, float> single;
  Work<B, double> twice;
  for (const int threads : {1, 2, 3}) {
    for (const bool deterministic : {false, true}) {
      CAPTURE(threads);
      CAPTURE(deterministic);
      typename B::Context ctx(threads, deterministic);
      const auto pass = [&](index_t tokens, index_t rows, index_t cols) {
        single.run(ctx, tokens, rows, cols);
        twice.run(ctx, tokens, rows, cols);
      };
      pass(400, 384, 400);
      pass(400, 384, 400);
      const AllocationMark mark;
      for (const index_t tokens : {400, 1, 17, 255, 128, 399})
        pass(tokens, 384, 400);
      pass(100, 96, 33);
      pass(3, 200, 384);
      CHECK(mark.count() == 0);
    }
  }
}

}  // namespace
}  // namespace sparsegrad
