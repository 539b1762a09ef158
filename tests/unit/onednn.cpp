// backend::CpuOneDnn beyond the contract: products of several tiles, the matmuls that a context keeps, threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include <sparsegrad/backend/cpu_onednn.hpp>

#include "support/hashed_steps.hpp"
#include "support/padded_matrix.hpp"
#include "support/tolerance.hpp"

namespace sparsegrad {
namespace {

using B = backend::CpuOneDnn;
using backend::host::Executor;
using test::PaddedMatrix;
using Random = std::mt19937_64;

PaddedMatrix<float> operand(Op op, index_t rows, index_t cols, index_t padding) {
  return op == Op::none ? PaddedMatrix<float>(rows, cols, padding) : PaddedMatrix<float>(cols, rows, padding);
}

/// C = alpha op(A) op(B) + beta C, against sums in double.
void check_product(B::Context& ctx, Op op_a, Op op_b, index_t m, index_t n, index_t k, float alpha,
                   float beta, Random& random) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(alpha);
  CAPTURE(beta);
  const auto a = operand(op_a, m, k, 1).fill(random);
  const auto b = operand(op_b, k, n, 2).fill(random);
  PaddedMatrix<float> c(m, n, 3);
  c.fill(random);
  const PaddedMatrix<float> before = c;
  if (beta == 0.0F) c.fill_with(std::numeric_limits<float>::quiet_NaN());
  B::gemm<float>(ctx, op_a, op_b, alpha, a.const_view(), b.const_view(), beta, c.view());
  std::vector<double> row(static_cast<std::size_t>(n));
  bool right = true;
  for (index_t i = 0; i < m; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    for (index_t l = 0; l < k; ++l) {
      const double left = op_a == Op::none ? a(i, l) : a(l, i);
      for (index_t j = 0; j < n; ++j)
        row[static_cast<std::size_t>(j)] += left * (op_b == Op::none ? b(l, j) : b(j, l));
    }
    for (index_t j = 0; j < n; ++j) {
      const double exact = alpha * row[static_cast<std::size_t>(j)] + (beta == 0 ? 0 : beta * before(i, j));
      right = right && std::abs(c(i, j) - exact) < 1e-5 * (10 + std::sqrt(static_cast<double>(k)));
    }
  }
  CHECK(right);
  CHECK(c.padding_untouched());
}

TEST_CASE("oneDNN: products of several tiles, all transposes and factors") {
  Random random(1);
  for (const int threads : {1, 2, 5}) {
    for (const bool deterministic : {false, true}) {
      B::Context ctx(threads, deterministic);
      for (const Op op_a : {Op::none, Op::transpose}) {
        for (const Op op_b : {Op::none, Op::transpose}) {
          check_product(ctx, op_a, op_b, 530, 801, 97, 1.0F, 0.0F, random);
          check_product(ctx, op_a, op_b, 401, 530, 133, 1.0F, 1.0F, random);
          check_product(ctx, op_a, op_b, 270, 390, 41, -2.0F, 0.0F, random);
          check_product(ctx, op_a, op_b, 270, 390, 97, 0.25F, 1.0F, random);
          check_product(ctx, op_a, op_b, 270, 390, 41, 1.0F, -0.5F, random);
        }
      }
      check_product(ctx, Op::none, Op::none, 1, 2000, 70, 1.0F, 0.0F, random);
      check_product(ctx, Op::none, Op::transpose, 2000, 1, 70, 1.0F, 1.0F, random);
      check_product(ctx, Op::transpose, Op::none, 500, 300, 1, 1.0F, 0.0F, random);
    }
  }
}

/// C = alpha op(A) op(B) + beta C for whole numbers, of which all sums in float are exact: C must be the exact sum,
/// rounded once.
template <class S, class Out>
void check_low_precision(B::Context& ctx, Op op_a, Op op_b, index_t m, index_t n, index_t k, float alpha,
                         float beta) {
  CAPTURE(alpha);
  CAPTURE(beta);
  CAPTURE(k);
  Random random(5);
  const auto whole = [&](auto& numbers) {
    for (auto& number : numbers)
      number =
          std::remove_reference_t<decltype(number)>(static_cast<float>(static_cast<int>(random() % 7) - 3));
  };
  std::vector<S> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(k * n));
  std::vector<Out> c(static_cast<std::size_t>(m * n));
  whole(a);
  whole(b);
  whole(c);
  const std::vector<Out> before = c;
  const MatrixView<const S> a_view(a.data(), op_a == Op::none ? m : k, op_a == Op::none ? k : m);
  const MatrixView<const S> b_view(b.data(), op_b == Op::none ? k : n, op_b == Op::none ? n : k);
  const MatrixView<Out> c_view(c.data(), m, n);
  if constexpr (std::is_same_v<Out, float>) {
    B::gemm_wide<S>(ctx, op_a, op_b, alpha, a_view, b_view, beta, c_view);
  } else {
    B::gemm<S>(ctx, op_a, op_b, alpha, a_view, b_view, beta, c_view);
  }
  index_t wrong = 0;
  std::vector<float> row(static_cast<std::size_t>(n));
  for (index_t i = 0; i < m; ++i) {
    std::fill(row.begin(), row.end(), 0.0F);
    for (index_t l = 0; l < k; ++l) {
      const auto left = static_cast<float>(op_a == Op::none ? a_view(i, l) : a_view(l, i));
      for (index_t j = 0; j < n; ++j)
        row[static_cast<std::size_t>(j)] +=
            left * static_cast<float>(op_b == Op::none ? b_view(l, j) : b_view(j, l));
    }
    for (index_t j = 0; j < n; ++j) {
      const auto place = static_cast<std::size_t>(i * n + j);
      const float exact = alpha * row[static_cast<std::size_t>(j)] + beta * static_cast<float>(before[place]);
      wrong += static_cast<float>(c[place]) != static_cast<float>(Out(exact)) ? 1 : 0;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("oneDNN: 16-bit products of several tiles are rounded once", S, sparsegrad::bfloat16,
                   float16) {
  for (const int threads : {1, 3}) {
    B::Context ctx(threads);
    for (const Op op_a : {Op::none, Op::transpose}) {
      for (const Op op_b : {Op::none, Op::transpose}) {
        for (const index_t k : {64, 211}) {
          check_low_precision<S, S>(ctx, op_a, op_b, 300, 410, k, 1.0F, 0.0F);
          check_low_precision<S, S>(ctx, op_a, op_b, 300, 410, k, 1.0F, 1.0F);
          check_low_precision<S, S>(ctx, op_a, op_b, 300, 410, k, 0.5F, 0.25F);
          check_low_precision<S, float>(ctx, op_a, op_b, 300, 410, k, 1.0F, 0.0F);
          check_low_precision<S, float>(ctx, op_a, op_b, 300, 410, k, 1.0F, 1.0F);
          check_low_precision<S, float>(ctx, op_a, op_b, 300, 410, k, -2.0F, 0.5F);
        }
      }
    }
    for (const float alpha : {0.0F, 1.0F}) {
      check_low_precision<S, S>(ctx, Op::none, Op::none, 5, 7, alpha == 0.0F ? 3 : 0, alpha, 0.5F);
      check_low_precision<S, float>(ctx, Op::none, Op::none, 5, 7, alpha == 0.0F ? 3 : 0, alpha, 0.5F);
      check_low_precision<S, S>(ctx, Op::none, Op::transpose, 3, 2, 9, alpha, 0.0F);
    }
  }
}

TEST_CASE("oneDNN: alpha = 0 reads neither A nor B, whatever the size") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  B::Context ctx(2);
  for (const index_t n : {3, 100}) {
    PaddedMatrix<float> a(n, n);
    a.fill_with(nan);
    PaddedMatrix<float> c(n, n, 1);
    c.fill_with(2.0F);
    B::gemm<float>(ctx, Op::none, Op::none, 0.0F, a.const_view(), a.const_view(), 0.5F, c.view());
    CHECK(c.entries() == std::vector<float>(static_cast<std::size_t>(n * n), 1.0F));
    c.fill_with(nan);
    B::gemm<float>(ctx, Op::none, Op::none, 0.0F, a.const_view(), a.const_view(), 0.0F, c.view());
    CHECK(c.entries() == std::vector<float>(static_cast<std::size_t>(n * n), 0.0F));
  }
}

TEST_CASE("oneDNN: a context keeps the matmuls it used last, and no more than its bound") {
  constexpr auto most = static_cast<index_t>(backend::onednn::MatmulCache::most);
  const std::vector<float> x(40 * 1000, 1.0F);
  std::vector<float> y(40 * 40);
  B::Context ctx(2);
  const auto size = [&] { return static_cast<index_t>(ctx.matmuls().size()); };
  const auto product = [&](index_t stride) {
    const MatrixView<const float> a(x.data(), 40, 40, stride);
    B::gemm<float>(ctx, Op::none, Op::transpose, 1.0F, a, a, 0.0F, MatrixView<float>(y.data(), 40, 40));
    CHECK(std::count(y.begin(), y.end(), 40.0F) == 40 * 40);
  };
  CHECK(size() == 0);
  product(40);
  product(40);
  CHECK(size() == 1);
  for (index_t stride = 41; stride < most + 60; ++stride) {
    product(stride);
    product(40);  // in use all the time, so never forgotten
  }
  CHECK(size() <= most + 1);
  const index_t before = size();
  product(40);
  product(most);
  CHECK(size() <= before);
  product(41);  // forgotten, made again
  CHECK(size() == most + 1);
}

TEST_CASE("oneDNN: depths that differ from step to step need few matmuls") {
  const std::vector<float> x(400 * 48, 1.0F);
  std::vector<float> y(48 * 48);
  B::Context ctx(1);
  for (index_t depth = 100; depth <= 400; ++depth) {
    const MatrixView<const float> a(x.data(), depth, 48);
    B::gemm<float>(ctx, Op::transpose, Op::none, 1.0F, a, a, 0.0F, MatrixView<float>(y.data(), 48, 48));
    CHECK(std::count(y.begin(), y.end(), static_cast<float>(depth)) == 48 * 48);
  }
  CHECK(ctx.matmuls().size() <= 6 + 63);  // multiples of 64, and what is left
}

TEST_CASE("oneDNN: scratch memory stays below what reserve makes") {
  for (const int threads : {1, 2}) {
    B::Context ctx(threads);
    const std::vector<float> x(400 * 20000, 0.001F);
    std::vector<float> y(400 * 400);
    std::vector<double> g(400 * 400);
    for (const Op op_a : {Op::none, Op::transpose}) {
      const MatrixView<const float> a = op_a == Op::none ? MatrixView<const float>(x.data(), 400, 20000)
                                                         : MatrixView<const float>(x.data(), 20000, 400);
      const Op op_b = op_a == Op::none ? Op::transpose : Op::none;
      B::gemm<float>(ctx, op_a, op_b, 0.5F, a, a, 0.5F, MatrixView<float>(y.data(), 400, 400));
      B::gram<float>(ctx, op_a, a, 1.0, MatrixView<double>(g.data(), 400, 400));
    }
    CHECK(ctx.scratch().most_used() > 0);
    CHECK(ctx.scratch().most_used() <= B::scratch_bound<float>(ctx, 0));
  }
}

int threads_of_process() {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                                        std::filesystem::directory_iterator()));
}

/// Runs tasks on three threads that live as long as a call.
class Lender final : public Executor {
 public:
  int concurrency() const override { return 3; }
  void run(index_t count, Task task, void* argument) override {
    std::atomic<index_t> next{0};
    std::vector<std::thread> workers;
    for (int worker = 0; worker < 3; ++worker) {
      workers.emplace_back([&, worker] {
        for (index_t i = next++; i < count; i = next++) {
          task(argument, i, worker);
          most = std::max(most.load(), threads_of_process());
        }
      });
    }
    for (std::thread& worker : workers)
      worker.join();
  }
  std::atomic<int> most{0};
};

TEST_CASE("oneDNN: stays on the context's threads and leaves OpenMP's setting alone") {
  Random random(3);
  const int openmp =
      backend::host::openmp_get_max_threads != nullptr ? backend::host::openmp_get_max_threads() : 0;
  const int before = threads_of_process();
  {
    B::Context one(1);
    check_product(one, Op::none, Op::transpose, 600, 700, 300, 1.0F, 0.0F, random);
    CHECK(threads_of_process() == before);
    Lender lender;
    B::Context lent(lender);
    check_product(lent, Op::none, Op::transpose, 600, 700, 300, 1.0F, 0.0F, random);
    check_product(lent, Op::transpose, Op::none, 600, 700, 300, 0.5F, 1.0F, random);
    CHECK(lender.most.load() <= before + 3);
    CHECK(threads_of_process() == before);
    B::Context two(2);
    check_product(two, Op::none, Op::transpose, 600, 700, 300, 1.0F, 0.0F, random);
    CHECK(threads_of_process() == before + 1);
  }
  if (openmp > 0) CHECK(backend::host::openmp_get_max_threads() == openmp);
}

TEST_CASE("oneDNN: contexts work side by side") {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&wrong, caller] {
      B::Context ctx(2);
      for (index_t k = 30; k < 60; ++k) {
        const std::vector<float> x(static_cast<std::size_t>(300 * k), static_cast<float>(caller + 1));
        std::vector<float> y(300 * 300);
        const MatrixView<const float> a(x.data(), 300, k);
        B::gemm<float>(ctx, Op::none, Op::transpose, 1.0F, a, a, 0.0F, MatrixView<float>(y.data(), 300, 300));
        const auto expected = static_cast<float>((caller + 1) * (caller + 1) * k);
        wrong +=
            static_cast<int>(y.size() - static_cast<std::size_t>(std::count(y.begin(), y.end(), expected)));
      }
    });
  }
  for (std::thread& caller : callers)
    caller.join();
  CHECK(wrong.load() == 0);
}

TEST_CASE_TEMPLATE("oneDNN: deterministic contexts with 1, 2 and 3 threads train to the same bits", T, float,
                   sparsegrad::bfloat16) {
  for (const SideRecipes& rules : {SideRecipes{SideRecipe::hadamard(), SideRecipe::hosvd()},
                                   SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(64)},
                                   SideRecipes{SideRecipe::hosvd(), SideRecipe::hosvd()}}) {
    const std::uint64_t one = test::weight_after_20_steps<B, T>(1, rules, 769, 193);
    CHECK(test::weight_after_20_steps<B, T>(1, rules, 769, 193) == one);
    CHECK(test::weight_after_20_steps<B, T>(2, rules, 769, 193) == one);
    CHECK(test::weight_after_20_steps<B, T>(3, rules, 769, 193) == one);
  }
}

}  // namespace
}  // namespace sparsegrad
