// Layer steps and their parts under Google Benchmark, for a closer look at one of them:
//     benchmark_layer_step --benchmark_filter='cpu_blas/768 -> 3072/both sides full'
// Ratios to the dense step come from benchmark_compare, which runs all steps in turn.

#include <benchmark/benchmark.h>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "layer_cases.hpp"
#include "part_cases.hpp"

namespace {

using namespace sparsegrad;

/// The case that ran last stays prepared: Google Benchmark calls a benchmark several times to find its number of
/// iterations, and neighbours share their data.
struct Prepared {
  std::string name;
  bench::Work work;
};

void add(const std::string& family, std::vector<bench::Case> cases,
         const std::shared_ptr<Prepared>& prepared) {
  for (bench::Case& c : cases) {
    const std::string name = family + "/" + c.name;
    const auto run = [name, c = std::move(c), prepared](benchmark::State& state) {
      if (prepared->name != name) {
        prepared->work = c.prepare();  // the old one ends afterwards
        prepared->name = name;
      }
      for (auto _ : state) {
        if (prepared->work.reset) {
          state.PauseTiming();
          prepared->work.reset();
          state.ResumeTiming();
        }
        prepared->work.run();
      }
      const auto rate = [&](const char* counter, double amount) {
        using benchmark::Counter;
        if (amount > 0) state.counters[counter] = Counter(amount, Counter::kIsIterationInvariantRate);
      };
      rate("FLOP/s", prepared->work.flops);
      rate("B/s", prepared->work.bytes);
    };
    benchmark::RegisterBenchmark(name.c_str(), run)->UseRealTime()->Unit(benchmark::kMillisecond);
  }
}

template <class Backend>
struct Contexts {
  typename Backend::Context all;
  typename Backend::Context one{1};
};

template <class Backend>
void add_backend(Contexts<Backend>& contexts, const std::shared_ptr<Prepared>& prepared) {
  const std::string name = Backend::name();
  for (bench::LayerShape shape : {bench::up_shape(), bench::down_shape()}) {
    add(name + "/" + shape.name, bench::layer_cases<Backend>(contexts.all, shape), prepared);
    shape.micro_batches = 8;
    add(name + "/" + shape.name + ", 8 micro-batches", bench::layer_cases<Backend>(contexts.all, shape),
        prepared);
  }
  for (const index_t n : {512, 1024, 2048, 3072})
    add(name, {bench::square_product<Backend>(contexts.all, n)}, prepared);
  add(name + "/parts", bench::part_cases<Backend>(contexts.all, contexts.one, bench::up_shape()), prepared);
  add(name + "/parts", bench::fit_cases<Backend>(contexts.one, bench::up_shape(), 132), prepared);
}

}  // namespace

int main(int argc, char** argv) {
  Contexts<backend::CpuBlas> blas;
  Contexts<backend::Cpu> eigen;
  const auto prepared = std::make_shared<Prepared>();
  add_backend(blas, prepared);
  add_backend(eigen, prepared);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  *prepared = {};
}
