// Runs cases one at a time, as a driver asks for them (benchmarks/grid.py), so that it can interleave them with anything
// else, other programs too:
//     benchmark_cases [--out 3072] [--in 768] [--tokens 2048] [--micro-batches 1] [--entries 28000] [--rank 64]
//                     [--gradients 132] [--threads N] [--backend cpu_blas|cpu]
// The first line of the output says what there is, as JSON. Then every line of the input is a command:
//     run NAME     prepares the case at its first run; answers with its times and what it computes and holds
//     drop NAME    frees what it holds
// Answers are one line of JSON each. The program ends with its input.
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>

#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "grid_cases.hpp"
#include "machine.hpp"
#include "memory_walk.hpp"
#include "part_cases.hpp"

namespace {

using namespace sparsegrad;
using bench::GridCase;
using Json = nlohmann::ordered_json;

struct Options {
  bench::LayerShape shape = bench::up_shape();
  index_t rank = 64;
  index_t gradients = 132;
  int threads = bench::core_count();
  std::string backend = "cpu_blas";
};

Options parse(int argc, char** argv) {
  Options o;
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
    } else if (key == "--backend" && (value == "cpu" || value == "cpu_blas")) {
      o.backend = value;
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

Json memory_json(const bench::Memory& m) {
  return {{"weight", m.weight}, {"gradient", m.gradient},       {"optimizer", m.optimizer},
          {"basis", m.basis},   {"saved_input", m.saved_input}, {"scratch", m.scratch}};
}

void answer(const Json& json) {
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

void describe(const Options& o, const std::vector<GridCase>& cases) {
  Json list = Json::array();
  for (const GridCase& c : cases)
    list.push_back({{"name", c.what.name}, {"family", c.family}, {"plan", c.plan}, {"chosen", c.chosen}});
  answer({{"machine",
           {{"processor", bench::cpu_name()},
            {"cores", bench::core_count()},
            {"memory", bench::proc_value("/proc/meminfo", "MemTotal")},
            {"compiler", bench::compiler()},
            {"blas", bench::blas()},
            {"eigen", bench::eigen()},
            {"slug", bench::machine_slug()}}},
          {"sparsegrad", SPARSEGRAD_VERSION},
          {"backend", o.backend},
          {"lora_rank", bench::equal_lora_rank(o.shape)},
          {"cases", list}});
}

template <class Backend>
std::vector<GridCase> all_cases(typename Backend::Context& ctx, typename Backend::Context& one_thread,
                                const Options& o) {
  std::vector<GridCase> cases = bench::grid_cases<Backend>(ctx, o.shape, o.rank);
  const auto add = [&cases](bench::Case c, const char* family) {
    cases.push_back({.what = std::move(c), .family = family});
  };
  add(bench::square_product<Backend>(ctx, 2048), "machine");
  add({.name = "memory walk", .prepare = [&ctx] { return bench::memory_walk<Backend>(ctx); }}, "machine");
  for (bench::Case& c : bench::part_cases<Backend>(ctx, one_thread, o.shape))
    add(std::move(c), "part");
  for (bench::Case& c : bench::fit_cases<Backend>(ctx, o.shape, o.gradients))
    add(std::move(c), "part");
  return cases;
}

template <class Backend>
void serve(const Options& o) {
  typename Backend::Context ctx(o.threads);
  typename Backend::Context one_thread(1);
  const std::vector<GridCase> cases = all_cases<Backend>(ctx, one_thread, o);
  describe(o, cases);
  std::map<std::string, bench::Work> prepared;
  for (std::string line; std::getline(std::cin, line);) {
    const std::size_t space = line.find(' ');
    const std::string command = line.substr(0, space);
    const std::string name = space == std::string::npos ? "" : line.substr(space + 1);
    if (command == "drop") {
      answer({{"dropped", prepared.erase(name) > 0}});
      continue;
    }
    const auto found =
        std::find_if(cases.begin(), cases.end(), [&](const GridCase& c) { return c.what.name == name; });
    if (command != "run" || found == cases.end()) {
      throw std::invalid_argument("expected 'run NAME' or 'drop NAME' of a case, got '" + line + "'");
    }
    const auto at = prepared.find(name);
    const bench::Work& work =
        at != prepared.end() ? at->second : prepared.emplace(name, found->what.prepare()).first->second;
    const bench::Sample sample = bench::time(work);
    Json json = {{"wall", sample.wall}, {"cpu", sample.cpu}, {"flops", work.flops}, {"bytes", work.bytes}};
    if (work.memory) json["memory"] = memory_json(work.memory());
    if (work.extra_bytes) json["extra_bytes"] = work.extra_bytes();
    answer(json);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    if (options.backend == "cpu") {
      serve<backend::Cpu>(options);
    } else {
      serve<backend::CpuBlas>(options);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "benchmark_cases: %s\n", e.what());
    return 1;
  }
}
