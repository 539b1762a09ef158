// FastestOf and cpu_report: which backend's products are taken, and what is said of slow ones.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/cpu_report.hpp>

namespace sparsegrad {
namespace {

using backend::ProductChoice;
using backend::host::ProductRates;
using Either = backend::FastestOf<backend::CpuBlas, backend::Cpu>;
static_assert(Backend<Either>);

/// S = A A^T of B's products, A in T.
template <class T, Backend B>
std::vector<compute_t<T>> product(typename B::Context& ctx) {
  using C = compute_t<T>;
  constexpr index_t rows = 37, depth = 101;
  std::vector<T> a(rows * depth);
  std::vector<C> s(rows * rows);
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] = static_cast<T>(C(1) / static_cast<C>(3 + i % 17));
  const MatrixView<const T> view(a.data(), rows, depth);
  const MatrixView<C> sums(s.data(), rows, rows);
  if constexpr (is_low_precision<T>) {
    B::template gemm_wide<T>(ctx, Op::none, Op::transpose, 1, view, view, 0, sums);
  } else {
    B::template gemm<T>(ctx, Op::none, Op::transpose, 1, view, view, 0, sums);
  }
  return s;
}

/// Chosen products are the candidate's own, bit by bit.
template <class T, Backend B>
void check_takes(const ProductChoice& choice) {
  Either::Context ctx(1, false, choice);
  typename B::Context own(1);
  CHECK(product<T, Either>(ctx) == product<T, B>(own));
}

TEST_CASE("FastestOf: the products are those of the chosen candidate, type by type") {
  check_takes<float, backend::Cpu>({"cpu", "cpu_blas", "cpu_blas"});
  check_takes<double, backend::CpuBlas>({"cpu", "cpu_blas", "cpu_blas"});
  check_takes<float, backend::CpuBlas>({"cpu_blas", "cpu", "cpu_blas"});
  check_takes<double, backend::Cpu>({"cpu_blas", "cpu", "cpu_blas"});
  check_takes<bfloat16, backend::Cpu>({"cpu_blas", "cpu_blas", "cpu"});
  check_takes<bfloat16, backend::CpuBlas>({"cpu", "cpu", "cpu_blas"});
  // The two differ, or the checks above say nothing.
  typename backend::Cpu::Context ctx(1);
  CHECK(product<float, backend::Cpu>(ctx) != product<float, backend::CpuBlas>(ctx));
}

TEST_CASE("FastestOf: the fastest of each type, in doubt the first") {
  const auto fastest = [](std::vector<ProductRates> rates) { return Either::fastest(rates); };
  CHECK(fastest({{"cpu_blas", 100, 50, 20}, {"cpu", 120, 50, 10}}) ==
        ProductChoice{"cpu", "cpu_blas", "cpu_blas"});
  CHECK(fastest({{"cpu_blas", 100, 50, 0}, {"cpu", 104, 60, 0}}) ==
        ProductChoice{"cpu_blas", "cpu", "cpu_blas"});
  CHECK(fastest({{"cpu_blas", 100, 50, 20}, {"cpu", 20, 10, 200}}) ==
        ProductChoice{"cpu_blas", "cpu_blas", "cpu"});
}

TEST_CASE("FastestOf: products with few rows count as much as large ones") {
  const auto of_float = [](double first_few, double second_few) {
    return Either::fastest(
               {{"cpu_blas", 100, 50, 20, first_few, 50, 20}, {"cpu", 110, 50, 20, second_few, 50, 20}})
        .of_float;
  };
  CHECK(of_float(40, 40) == "cpu_blas");  // 1.1 and 1 times as fast: 1.049
  CHECK(of_float(40, 44) == "cpu");
  CHECK(of_float(40, 30) == "cpu_blas");
  CHECK(of_float(40, 0) == "cpu");  // not measured
}

TEST_CASE("FastestOf: a context says its choice; another one can be made with it") {
  Either::Context measured(1);
  Either::Context same(1, true, measured.products());
  CHECK(same.products() == measured.products());
  CHECK(same.deterministic());
  CHECK(Either::names() == std::vector<std::string>{"cpu_blas", "cpu"});
}

TEST_CASE("FastestOf: a name of no candidate is refused") {
  std::string message;
  try {
    Either::Context(1, false, {"cpu", "mkl", "cpu"});
  } catch (const ValueError& error) {
    message = error.what();
  }
  CHECK(message == "the products are those of \"mkl\", expected one of: cpu_blas, cpu");
}

TEST_CASE("cpu_report: rates are measured and told") {
  const CpuReport report = cpu_report<backend::CpuBlas, backend::Cpu>();
  REQUIRE(report.rates.size() == 2);
  CHECK(report.peak > 0);
  for (const ProductRates& r : report.rates) {
    CHECK(r.of_float > 0);
    CHECK(r.of_double > 0);
    CHECK(r.few_of_float > 0);
    CHECK(r.few_of_double > 0);
  }
  const std::string text = to_string(report);
  CAPTURE(text);
  CHECK(text.find(report.processor + ", " + report.instruction_set) == 0);
  CHECK(text.find("\ncpu_blas: float ") != std::string::npos);
  CHECK(text.find("\ncpu: float ") != std::string::npos);
  CHECK(text.find("\nfastest: " + report.fastest.of_float + " (float)") != std::string::npos);
}

TEST_CASE("cpu_report: products far below the instruction set's rate are named with the cure") {
  CpuReport report;
  report.instruction_set = "AVX-512";
  report.peak = 150e9;
  report.rates = {{"cpu_blas", 15e9, 7e9, 0}, {"cpu", 40e9, 20e9, 0}};
  report.fastest = Either::fastest(report.rates);
  const std::string slow = detail::advice_on(report);
  CAPTURE(slow);
  CHECK(slow.find("The BLAS multiplies floats at 15 GFLOP/s a thread, where AVX-512 allows 150 GFLOP/s.") ==
        0);
  CHECK(slow.find("The fastest products are those of cpu at 40 GFLOP/s") != std::string::npos);
  CHECK(slow.back() != ' ');

  report.rates = {{"cpu_blas", 15e9, 7e9, 0}, {"cpu", 120e9, 20e9, 0}};
  report.fastest = Either::fastest(report.rates);
  CHECK(detail::advice_on(report).find("The fastest products") == std::string::npos);

  report.rates = {{"cpu_blas", 120e9, 60e9, 0}, {"cpu", 40e9, 20e9, 0}};
  report.fastest = Either::fastest(report.rates);
  CHECK(detail::advice_on(report).empty());
}

TEST_CASE("what is said of OpenBLAS's kernels depends on the environment") {
  using detail::openblas_advice;
  CHECK(openblas_advice("Prescott", nullptr, "SkylakeX").find("set the environment variable") !=
        std::string::npos);
  CHECK(openblas_advice("Haswell", "Haswell", "SkylakeX").find("OPENBLAS_CORETYPE is Haswell; unset it") !=
        std::string::npos);
  CHECK(openblas_advice("Haswell", "Haswell", "Haswell").find("install a newer") != std::string::npos);
}

}  // namespace
}  // namespace sparsegrad
