// How much of a layer's step no further thread can take over, counted: the step's parallel regions run on an executor that
// says it has P threads and runs their tasks one after the other, each timed by the thread's own CPU clock. What lies
// outside the tasks is serial; a region takes as long as the fullest of P workers, each of which takes the next task
// when it is free. So
//     time(P) = serial + sum over regions of the fullest worker's tasks
// Left out: waking threads (some microseconds a region, whose number is given), and memory that threads share.
//     benchmark_serial_share [--tokens 2048] [--output FILE]
#include <sparsegrad/backend/cpu_blas.hpp>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "layer_cases.hpp"
#include "machine.hpp"
#include "wrapped.hpp"

namespace {

using namespace sparsegrad;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class CountingExecutor final : public backend::host::Executor {
 public:
  explicit CountingExecutor(int threads) : load_(static_cast<std::size_t>(threads)) {}

  int concurrency() const override { return static_cast<int>(load_.size()); }
  void run(index_t count, Task task, void* argument) override {
    std::fill(load_.begin(), load_.end(), 0.0);
    for (index_t i = 0; i < count; ++i) {
      const auto free = std::min_element(load_.begin(), load_.end());
      const double begin = cpu_seconds();
      task(argument, i, static_cast<int>(free - load_.begin()));
      const double time = cpu_seconds() - begin;
      *free += time;
      inside += time;
    }
    fullest += *std::max_element(load_.begin(), load_.end());
    ++regions;
  }
  void start() { inside = fullest = 0, regions = 0; }

  double inside = 0;   ///< seconds of all tasks
  double fullest = 0;  ///< of the fullest workers of all regions
  int regions = 0;

 private:
  std::vector<double> load_;
};

struct Share {
  double total = 0;
  double serial = 0;
  double projected = 0;
  int regions = 0;
};

/// Medians of seven runs of the case on P threads.
std::vector<Share> measure(const bench::LayerShape& shape, int threads, std::vector<std::string>& names) {
  CountingExecutor executor(threads);
  backend::CpuBlas::Context ctx(executor);
  std::vector<Share> shares;
  names.clear();
  for (const bench::Case& c : bench::layer_cases<backend::CpuBlas>(ctx, shape)) {
    const bench::Work work = c.prepare();
    work.run();
    std::vector<Share> runs;
    for (int r = 0; r < 7; ++r) {
      executor.start();
      const double begin = cpu_seconds();
      work.run();
      const double total = cpu_seconds() - begin;
      const double serial = total - executor.inside;
      runs.push_back({total, serial, serial + executor.fullest, executor.regions});
    }
    const auto median = [&](auto member) {
      std::vector<double> all;
      for (const Share& s : runs)
        all.push_back(s.*member);
      std::nth_element(all.begin(), all.begin() + 3, all.end());
      return all[3];
    };
    shares.push_back(
        {median(&Share::total), median(&Share::serial), median(&Share::projected), runs.front().regions});
    names.push_back(c.name);
  }
  return shares;
}

}  // namespace

int main(int argc, char** argv) try {
  bench::LayerShape up = bench::up_shape();
  bench::LayerShape down = bench::down_shape();
  for (int i = 1; i < argc; i += 2) {
    const std::string key = argv[i];
    if (i + 1 == argc || (key != "--tokens" && key != "--output")) {
      throw std::invalid_argument("expected --tokens N or --output FILE, found " + key);
    }
    if (key == "--output") {
      if (std::freopen(argv[i + 1], "w", stdout) == nullptr)
        throw std::runtime_error(std::string("cannot write ") + argv[i + 1]);
    } else {
      up.tokens = down.tokens = bench::positive_number(key, argv[i + 1]);
    }
  }
  std::printf("# What of a step stays serial\n\n");
  std::printf("%s\n\n",
              bench::wrapped("`benchmark_serial_share`, " + bench::today() + "; " + bench::cpu_name() + "; " +
                             bench::blas() + "; load " + bench::load() + ".")
                  .c_str());
  std::printf(
      "| layer | step | CPU ms, tiles of 1 thread | serial ms, of 64 | serial share | regions | times as "
      "fast on 2 | 8 | "
      "64 |\n");
  std::printf("|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
  for (const bench::LayerShape& shape : {up, down}) {
    std::vector<std::string> names;
    const auto one = measure(shape, 1, names);
    const auto two = measure(shape, 2, names);
    const auto eight = measure(shape, 8, names);
    const auto many = measure(shape, 64, names);
    for (std::size_t i = 0; i < names.size(); ++i) {
      std::printf("| %s | %s | %.1f | %.3f | %.2f %% | %d | %.2f | %.1f | %.1f |\n", shape.name.c_str(),
                  names[i].c_str(), 1e3 * one[i].total, 1e3 * many[i].serial,
                  100 * many[i].serial / one[i].total, many[i].regions, one[i].total / two[i].projected,
                  one[i].total / eight[i].projected, one[i].total / many[i].projected);
      std::fflush(stdout);
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "benchmark_serial_share: %s\n", error.what());
  return 1;
}
