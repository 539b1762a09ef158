// sparsegrad-bench: measurements that a user makes on a machine of their own.
//     sparsegrad-bench calibrate [--backend cpu_onednn|cpu_blas|cpu] [--dtype float|bf16|fp16] [--threads N]
//                                [--in 768] [--out 3072] [--tokens 2048] [--seconds 5] [--output FILE]
// measures what the weights of CostModel stand for and writes them as JSON (docs/performance.md).
//     sparsegrad-bench report
// says how fast this processor multiplies and how fast the linked libraries do (docs/backends.md).
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#if defined(SPARSEGRAD_BENCH_ONEDNN)
#include <sparsegrad/backend/cpu_onednn.hpp>
#endif
#include <sparsegrad/backend/cpu_report.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "../arguments.hpp"
#include "../machine.hpp"
#include "calibrate.hpp"

namespace {

using namespace sparsegrad;

#if defined(SPARSEGRAD_BENCH_ONEDNN)
using Fastest = backend::FastestOf<backend::CpuOneDnn, backend::CpuBlas, backend::Cpu>;
#else
using Fastest = backend::FastestOf<backend::CpuBlas, backend::Cpu>;
#endif

constexpr const char* usage =
    "usage: sparsegrad-bench calibrate [--backend cpu_onednn|cpu_blas|cpu] [--dtype float|bf16|fp16]\n"
    "                                  [--threads N] [--in 768] [--out 3072] [--tokens 2048] [--seconds 5]\n"
    "                                  [--output FILE]\n"
    "       sparsegrad-bench report\n";

struct Options {
  std::string backend = "cpu_blas";
  std::string dtype = "float";
  int threads = bench::core_count();
  bench::LayerShape shape = bench::up_shape();
  double seconds = 5;
  std::string output;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 2; i < argc; i += 2) {
    const std::string key = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(key + " needs a value");
    const std::string value = argv[i + 1];
    const auto positive = [&] { return bench::positive_number(key, value); };
    const std::vector<std::string> backends = Fastest::names();
    if (key == "--backend") {
      if (std::find(backends.begin(), backends.end(), value) == backends.end())
        throw std::invalid_argument("--backend is " + value + ", which this program was not built with");
      o.backend = value;
    } else if (key == "--dtype") {
      if (value != "float" && value != "bf16" && value != "fp16")
        throw std::invalid_argument("--dtype is " + value + ", expected float, bf16 or fp16");
      o.dtype = value;
    } else if (key == "--threads") {
      o.threads = static_cast<int>(positive());
    } else if (key == "--in") {
      o.shape.in = positive();
    } else if (key == "--out") {
      o.shape.out = positive();
    } else if (key == "--tokens") {
      o.shape.tokens = positive();
    } else if (key == "--seconds") {
      o.seconds = static_cast<double>(positive());
    } else if (key == "--output") {
      o.output = value;
    } else {
      throw std::invalid_argument("unknown option " + key + " " + value);
    }
  }
  o.shape.name = std::to_string(o.shape.in) + " -> " + std::to_string(o.shape.out);
  // The share of the entries that the default shape keeps.
  o.shape.entries = std::max<index_t>(1, o.shape.in * o.shape.out * 28000 / (768 * 3072));
  return o;
}

template <class Backend>
bench::Calibration run(const Options& o) {
  typename Backend::Context ctx(o.threads);
  if (o.dtype == "bf16") return bench::calibrate<Backend, sparsegrad::bfloat16>(ctx, o.shape, o.seconds);
  if (o.dtype == "fp16") return bench::calibrate<Backend, float16>(ctx, o.shape, o.seconds);
  return bench::calibrate<Backend, float>(ctx, o.shape, o.seconds);
}

void calibrate(const Options& o) {
  const std::string load = bench::load();
#if defined(SPARSEGRAD_BENCH_ONEDNN)
  const bench::Calibration c = o.backend == "cpu_onednn" ? run<backend::CpuOneDnn>(o)
                               : o.backend == "cpu"      ? run<backend::Cpu>(o)
                                                         : run<backend::CpuBlas>(o);
#else
  const bench::Calibration c = o.backend == "cpu" ? run<backend::Cpu>(o) : run<backend::CpuBlas>(o);
#endif
  const auto range = [&](double CostModel::*weight) {
    const auto [least, most] =
        std::minmax_element(c.rounds.begin(), c.rounds.end(),
                            [weight](const auto& x, const auto& y) { return x.*weight < y.*weight; });
    return nlohmann::ordered_json::array({(*least).*weight, (*most).*weight});
  };
  const nlohmann::ordered_json page = {
      {"transform_entry", c.model.transform_entry},
      {"sparse_entry", c.model.sparse_entry},
      {"rotation_product", c.model.rotation_product},
      {"of_single_rounds",
       {{"transform_entry", range(&CostModel::transform_entry)},
        {"sparse_entry", range(&CostModel::sparse_entry)},
        {"rotation_product", range(&CostModel::rotation_product)}}},
      {"built_in",
       {{"transform_entry", c.built_in.transform_entry},
        {"sparse_entry", c.built_in.sparse_entry},
        {"rotation_product", c.built_in.rotation_product}}},
      {"rotations", to_string(c.rotations)},
      {"product_gflops", c.product_flops * 1e-9},
      {"memory_gbytes", c.memory_bytes * 1e-9},
      {"rounds", c.rounds.size()},
      {"backend", o.backend},
      {"dtype", o.dtype},
      {"threads", o.threads},
      {"layer", o.shape.name + ", " + std::to_string(o.shape.tokens) + " tokens"},
      {"processor", bench::cpu_name()},
      {"blas", o.backend == "cpu" ? bench::eigen() : bench::blas()},
      {"compiler", bench::compiler()},
      {"load_before", load},
      {"date", bench::today()},
      {"sparsegrad", SPARSEGRAD_VERSION}};
  const std::string text = page.dump(2) + "\n";
  if (o.output.empty()) {
    std::fputs(text.c_str(), stdout);
  } else {
    std::ofstream file(o.output);
    file << text;
    file.close();
    if (!file) throw std::runtime_error("cannot write " + o.output);
  }
  std::fprintf(stderr,
               "LinearOptions options{.cost_model = CostModel{.transform_entry = %.3g, .sparse_entry = %.3g, "
               ".rotation_product = %.3g}};\n",
               c.model.transform_entry, c.model.sparse_entry, c.model.rotation_product);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc < 2 ? "" : argv[1];
  if (command != "calibrate" && !(command == "report" && argc == 2)) {
    std::fputs(usage, stderr);
    return 2;
  }
  try {
    if (command == "report") {
      std::puts(to_string(cpu_report_of<Fastest>()).c_str());
    } else {
      calibrate(parse(argc, argv));
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sparsegrad-bench: %s\n", e.what());
    return 1;
  }
}
