// Runs cases one at a time, as a driver asks for them (benchmarks/grid.py), so that it can interleave them with anything
// else, other programs too:
//     benchmark_cases [--out 3072] [--in 768] [--tokens 2048] [--micro-batches 1] [--entries 28000] [--rank 64]
//                     [--gradients 132] [--threads N] [--backend cpu_onednn|cpu_blas|cpu] [--dtype float|bf16]
//     benchmark_cases --variants
// The first line of the output says what there is, as JSON. Then every line of the input is a command:
//     run NAME     prepares the case at its first run; answers with its times and what it computes and holds
//     drop NAME    frees what it holds
// Answers are one line of JSON each. The program ends with its input. --variants: the machine, and the backends with
// the types that the program was built for, as one line of JSON.
#include <sparsegrad/backend/cpu_report.hpp>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../arguments.hpp"
#include "../machine.hpp"
#include "options.hpp"

namespace {

using namespace sparsegrad;

struct Variant {
  const char* backend;
  const char* dtype;
  bench::Serve serve;
};
constexpr Variant variants[] = {
    {"cpu_blas", "float", bench::serve_cpu_blas},
#if defined(SPARSEGRAD_BENCH_ONEDNN)
    {"cpu_onednn", "float", bench::serve_cpu_onednn}, {"cpu_onednn", "bf16", bench::serve_cpu_onednn_bf16},
#endif
    {"cpu_blas", "bf16", bench::serve_cpu_blas_bf16}, {"cpu", "float", bench::serve_cpu},
};

bench::CaseOptions parse(int argc, char** argv) {
  bench::CaseOptions o;
  for (int i = 1; i < argc; i += 2) {
    const std::string key = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(key + " needs a value");
    const std::string value = argv[i + 1];
    const auto positive = [&] { return bench::positive_number(key, value); };
    if (key == "--out") {
      o.shape.out = positive();
    } else if (key == "--in") {
      o.shape.in = positive();
    } else if (key == "--tokens") {
      o.shape.tokens = positive();
    } else if (key == "--micro-batches") {
      o.shape.micro_batches = positive();
    } else if (key == "--entries") {
      o.shape.entries = positive();
    } else if (key == "--rank") {
      o.rank = positive();
    } else if (key == "--gradients") {
      o.gradients = positive();
    } else if (key == "--threads") {
      o.threads = static_cast<int>(positive());
    } else if (key == "--backend") {
      o.backend = value;
    } else if (key == "--dtype") {
      o.dtype = value;
    } else {
      throw std::invalid_argument("unknown option " + key + " " + value);
    }
  }
  o.shape.name = std::to_string(o.shape.in) + " -> " + std::to_string(o.shape.out);
  if (o.shape.entries > o.shape.out * o.shape.in) {
    throw std::invalid_argument("--entries is " + std::to_string(o.shape.entries) + ", the weight has " +
                                std::to_string(o.shape.out * o.shape.in));
  }
  return o;
}

void print_variants() {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Variant& v : variants)
    list.push_back({{"backend", v.backend}, {"dtype", v.dtype}});
  const nlohmann::ordered_json all = {{"machine", bench::machine_json<nlohmann::ordered_json>()},
                                      {"sparsegrad", SPARSEGRAD_VERSION},
                                      {"variants", list}};
  std::puts(all.dump().c_str());
}

bench::Serve serve_of(const bench::CaseOptions& o) {
  std::string names;
  for (const Variant& v : variants) {
    if (o.backend == v.backend && o.dtype == v.dtype) return v.serve;
    names += (names.empty() ? "" : ", ") + std::string(v.backend) + " " + v.dtype;
  }
  throw std::invalid_argument("--backend " + o.backend + " --dtype " + o.dtype +
                              ": this program was built for " + names);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::string_view(argv[1]) == "--variants") {
      print_variants();
    } else {
      const bench::CaseOptions options = parse(argc, argv);
      serve_of(options)(options);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "benchmark_cases: %s\n", e.what());
    return 1;
  }
}
