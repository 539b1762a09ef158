// With CpuOneDnn a step whose numbers of tokens occurred before allocates nothing but what oneDNN takes inside its
// own calls.
#include <doctest/doctest.h>

#include <dlfcn.h>

#include <atomic>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu_onednn.hpp>

#include "layer_steps.hpp"

using namespace sparsegrad;

namespace {

std::atomic<int> executions{0};

}  // namespace

// In place of oneDNN's, which it calls: what that allocates is not counted.
extern "C" dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t primitive, dnnl_stream_t stream,
                                                int count, const dnnl_exec_arg_t* arguments) {
  static const auto real =
      reinterpret_cast<decltype(&dnnl_primitive_execute)>(dlsym(RTLD_NEXT, "dnnl_primitive_execute"));
  const test::UncountedAllocations uncounted;
  executions.fetch_add(1);
  return real(primitive, stream, count, arguments);
}

TEST_CASE("oneDNN: no allocation of ours in a step whose numbers of tokens occurred before") {
  // Two factors of full rank are left out: there a product's depth is the number of rows with a selected entry.
  const int before = executions.load();
  for (const int threads : {1, 2, 3}) {
    for (const auto& [out, in] : {std::pair("hadamard", "hadamard"), std::pair("identity", "16"),
                                  std::pair("24", "identity"), std::pair("hadamard", "full")}) {
      test::steps_without_allocation<backend::CpuOneDnn, float>(threads, out, in, true);
      test::steps_without_allocation<backend::CpuOneDnn, sparsegrad::bfloat16>(threads, out, in, true);
      for (const bool early : {false, true})
        test::engine_steps_without_allocation<backend::CpuOneDnn>(threads, out, in, early, true);
    }
  }
  CHECK(executions.load() > before + 1000);  // those of small products go to the BLAS
}

TEST_CASE("oneDNN: of a product, its first call alone allocates") {
  std::vector<float> x(300 * 500, 1.0F);
  std::vector<float> y(300 * 300);
  std::vector<double> g(500 * 500);
  const MatrixView<const float> a(x.data(), 300, 500);
  for (const int threads : {1, 2, 3}) {
    backend::CpuOneDnn::Context ctx(threads);
    const auto products = [&] {
      for (const float alpha : {1.0F, -0.5F})
        for (const float beta : {0.0F, 1.0F, 0.5F})
          backend::CpuOneDnn::gemm<float>(ctx, Op::none, Op::transpose, alpha, a, a, beta,
                                          MatrixView<float>(y.data(), 300, 300));
      backend::CpuOneDnn::gram<float>(ctx, Op::transpose, a, 1.0, MatrixView<double>(g.data(), 500, 500));
    };
    const test::AllocationMark first;
    products();
    if (test::counts_allocations) CHECK(first.count() > 0);
    products();
    const test::AllocationMark mark;
    products();
    CHECK(mark.count() == 0);
  }
}
