// All layer steps in turn, round after round, each against the dense step of its own round; and the parts. Prints a page
// of results, or writes FOLDER/steps.md, and what of it was wanted to FOLDER/steps.json:
//     benchmark_compare [--rounds 9] [--threads N] [--tokens 2048] [--backends cpu_blas,cpu] [--output FOLDER]
//                       [--only layers|tokens|accumulation|parts|fit]...
// Everything that is compared ran in the same process within the same few seconds, so that what else the machine does
// falls on all alike.
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "layer_cases.hpp"
#include "machine.hpp"
#include "measured_model.hpp"
#include "part_cases.hpp"
#include "wrapped.hpp"

namespace {

using namespace sparsegrad;
using bench::Case;
using bench::Sample;
using bench::Work;

struct Options {
  int rounds = 9;
  int threads = bench::core_count();
  index_t tokens = 2048;
  std::set<std::string> backends{"cpu_blas", "cpu"};
  std::set<std::string> only;
  std::string output;
  std::string command;

  bool wants(const std::string& section) const { return only.empty() || only.count(section) > 0; }
};

/// One case and its times, one a round.
struct Measured {
  Case what;
  double flops = 0;
  double bytes = 0;
  std::vector<Sample> samples;
  double extra_bytes = -1;  ///< the most of all rounds; -1: not stated

  double best() const { return smallest(&Sample::wall); }
  double best_cpu() const { return smallest(&Sample::cpu); }

 private:
  double smallest(double Sample::*time) const {
    double least = samples.front().*time;
    for (const Sample& s : samples)
      least = std::min(least, s.*time);
    return least;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

template <class F>
std::vector<double> map(const std::vector<Sample>& samples, F f) {
  std::vector<double> values;
  for (std::size_t i = 0; i < samples.size(); ++i)
    values.push_back(f(samples[i], i));
  return values;
}

double median_wall(const Measured& m) {
  return median(map(m.samples, [](const Sample& s, std::size_t) { return s.wall; }));
}

/// Runs all cases in turn, `rounds` times, after a run of each for warmth.
std::vector<Measured> in_turn(const std::vector<Case>& cases, int rounds, const std::string& title,
                              bool warm = true) {
  std::fprintf(stderr, "%s: preparing\n", title.c_str());
  std::vector<Measured> all;
  std::vector<Work> works;
  for (const Case& c : cases) {
    works.push_back(c.prepare());
    if (warm) works.back().run();
    all.push_back({c, works.back().flops, works.back().bytes, {}});
  }
  for (int round = 0; round < rounds; ++round) {
    std::fprintf(stderr, "%s: round %d of %d, load %s\n", title.c_str(), round + 1, rounds,
                 bench::load().c_str());
    for (std::size_t i = 0; i < works.size(); ++i) {
      all[i].samples.push_back(bench::time(works[i]));
      if (works[i].extra_bytes) all[i].extra_bytes = std::max(all[i].extra_bytes, works[i].extra_bytes());
    }
  }
  return all;
}

std::string number(double value, const char* format = "%.2f") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

class Page {
 public:
  void line(const std::string& text = "") {
    text_ += text + "\n";
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }
  void paragraph(const std::string& text) {
    line(bench::wrapped(text));
    line();
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// What was wanted of the cases of a page, and what was found.
class Targets {
 public:
  /// Where the next ones belong: a heading of the page.
  void begin(const std::string& section) { section_ = section; }
  std::string judge(const std::string& what, const std::string& wanted, const std::string& found, bool met) {
    all_.push_back(
        {{"section", section_}, {"what", what}, {"wanted", wanted}, {"found", found}, {"met", met}});
    ++(met ? met_ : missed_);
    return met ? "met" : "**missed**";
  }
  int met() const { return met_; }
  int missed() const { return missed_; }
  const nlohmann::ordered_json& all() const { return all_; }

 private:
  std::string section_;
  nlohmann::ordered_json all_ = nlohmann::ordered_json::array();
  int met_ = 0;
  int missed_ = 0;
};

/// Best rate of the square products among `all`.
double peak_of(const std::vector<Measured>& all, std::size_t first) {
  double peak = 0;
  for (std::size_t i = first; i < all.size(); ++i)
    peak = std::max(peak, all[i].flops / all[i].best());
  return peak;
}

/// Steps of one layer; after them in every round the square products that tell the machine's peak.
void write_layer(Page& page, Targets& targets, const std::vector<Measured>& all, std::size_t steps,
                 bool judged) {
  const double peak = peak_of(all, steps);
  page.line(
      "| step | ms | x dense: median | min | max | x dense, CPU time | GFLOP/s | share of peak | wanted | |");
  page.line("|---|--:|--:|--:|--:|--:|--:|--:|--:|---|");
  const Measured& dense = all.front();
  for (std::size_t i = 0; i < steps; ++i) {
    const Measured& m = all[i];
    const auto ratios =
        map(m.samples, [&](const Sample& s, std::size_t r) { return s.wall / dense.samples[r].wall; });
    const auto cpu =
        map(m.samples, [&](const Sample& s, std::size_t r) { return s.cpu / dense.samples[r].cpu; });
    const double ratio = median(ratios);
    std::string wanted;
    std::string verdict;
    const double share = m.flops / m.best() / peak;
    if (i == 0 && judged) {
      wanted = ">= 90 % of peak";
      verdict = targets.judge(m.what.name, wanted, number(100 * share, "%.0f %%"), share >= 0.9);
    } else if (m.what.most_ratio > 0) {
      wanted = "<= " + number(m.what.most_ratio);
      verdict = targets.judge(m.what.name, wanted, number(ratio), ratio <= m.what.most_ratio);
    }
    page.line("| " + m.what.name + " | " + number(1e3 * median_wall(m), "%.1f") + " | " + number(ratio) +
              " | " + number(*std::min_element(ratios.begin(), ratios.end())) + " | " +
              number(*std::max_element(ratios.begin(), ratios.end())) + " | " + number(median(cpu)) + " | " +
              number(1e-9 * m.flops / m.best(), "%.1f") + " | " + number(100 * share, "%.0f %%") + " | " +
              wanted + " | " + verdict + " |");
  }
  page.line();
  std::string products;
  for (std::size_t i = steps; i < all.size(); ++i)
    products += (i > steps ? "; " : "") + all[i].what.name + ": " +
                number(1e-9 * all[i].flops / all[i].best(), "%.1f");
  page.paragraph("Peak: " + number(1e-9 * peak, "%.1f") +
                 " GFLOP/s, the best of the square products in the same rounds (" + products + ").");
}

/// Parts; a ratio is that to another part of the same round. Times and ratios are judged by their median.
void write_parts(Page& page, Targets& targets, const std::vector<Measured>& all) {
  page.line(
      "| part | ms: best | median | CPU ms: best | GFLOP/s | GB/s | ratio: median (min-max) | MB beyond | "
      "wanted | |");
  page.line("|---|--:|--:|--:|--:|--:|--:|--:|--:|---|");
  for (const Measured& m : all) {
    const double best = m.best();
    std::string ratio_text;
    std::string wanted;
    std::string found;
    bool good = true;
    const auto want = [&](const std::string& most, const std::string& is, bool met) {
      wanted += (wanted.empty() ? "<= " : ", <= ") + most;
      found += (found.empty() ? "" : ", ") + is;
      good = good && met;
    };
    if (!m.what.over.empty() && m.what.over != m.what.name) {
      const auto base =
          std::find_if(all.begin(), all.end(), [&](const Measured& b) { return b.what.name == m.what.over; });
      if (base == all.end()) throw std::logic_error("no part is named " + m.what.over);
      const auto ratios =
          map(m.samples, [&](const Sample& s, std::size_t r) { return s.wall / base->samples[r].wall; });
      const double middle = median(ratios);
      ratio_text = number(middle, "%.3f") + " (" +
                   number(*std::min_element(ratios.begin(), ratios.end()), "%.3f") + "-" +
                   number(*std::max_element(ratios.begin(), ratios.end()), "%.3f") + ") of " + m.what.over;
      if (m.what.most_ratio > 0)
        want(number(m.what.most_ratio), number(middle, "%.3f"), middle <= m.what.most_ratio);
    }
    if (m.what.most_seconds > 0) {
      want(number(1e3 * m.what.most_seconds, "%.1f ms"), number(1e3 * median_wall(m), "%.3g ms"),
           median_wall(m) <= m.what.most_seconds);
    }
    if (m.what.most_extra_bytes > 0) {
      want(number(1e-6 * m.what.most_extra_bytes, "%.0f MB"), number(1e-6 * m.extra_bytes, "%.0f MB"),
           m.extra_bytes <= m.what.most_extra_bytes);
    }
    const std::string verdict = wanted.empty() ? "" : targets.judge(m.what.name, wanted, found, good);
    page.line("| " + m.what.name + " | " + number(1e3 * best, "%.3f") + " | " +
              number(1e3 * median_wall(m), "%.3f") + " | " + number(1e3 * m.best_cpu(), "%.3f") + " | " +
              (m.flops > 0 ? number(1e-9 * m.flops / best, "%.1f") : "") + " | " +
              (m.bytes > 0 ? number(1e-9 * m.bytes / best, "%.1f") : "") + " | " + ratio_text + " | " +
              (m.extra_bytes >= 0 ? number(1e-6 * m.extra_bytes, "%.0f") : "") + " | " + wanted + " | " +
              verdict + " |");
  }
  page.line();
}

/// What the parts say of the cost model's two weights.
void write_cost_model(Page& page, const std::vector<Measured>& all, const bench::LayerShape& shape) {
  const auto find = [&](const std::string& start) -> const Measured& {
    for (const Measured& m : all)
      if (m.what.name.compare(0, start.size(), start) == 0) return m;
    throw std::logic_error("no part is named " + start);
  };
  const CostModel measured = bench::measured_model(shape, [&](const std::string& name) {
    const Measured& part = find(name);
    return bench::PartTime{part.best_cpu(), part.flops};
  });
  const CostModel model;
  page.paragraph(
      "Cost model (`CostModel`), in multiply-adds of the dense product, by CPU time: `transform_entry` "
      "measured " +
      number(measured.transform_entry, "%.0f") + ", default " + number(model.transform_entry, "%.0f") +
      "; `sparse_entry` measured " + number(measured.sparse_entry, "%.1f") + ", default " +
      number(model.sparse_entry, "%.1f") + ".");
}

/// The same product by the BLAS library on its own threads, as an engine would call it.
Case library_product(int threads, index_t n) {
  return {.name = "the BLAS library's own threads, " + std::to_string(n), .prepare = [threads, n] {
            auto a = std::make_shared<std::vector<float>>(static_cast<std::size_t>(n * n), 1.0F);
            auto c = std::make_shared<std::vector<float>>(static_cast<std::size_t>(n * n));
            const auto run = [threads, n, a, c] {
              const backend::host::BlasThreads own(threads);
              const auto m = static_cast<blasint>(n);
              cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, m, m, 1, a->data(), m, a->data(), m,
                          0, c->data(), m);
            };
            return Work{.run = run, .flops = 2 * std::pow(static_cast<double>(n), 3)};
          }};
}

template <class Backend>
void measure(Page& page, Targets& targets, const Options& options) {
  const std::string name = Backend::name();
  if (options.backends.count(name) == 0) return;
  typename Backend::Context ctx(options.threads);
  typename Backend::Context one(1);
  const std::string what =
      std::is_same_v<Backend, backend::CpuBlas> ? "products by the BLAS" : "products by Eigen";
  page.line("## `" + name + "`: " + what);
  page.line();
  const int more_rounds = std::max(3, options.rounds / 2);  // of what takes long
  const auto layers = [&](const bench::LayerShape& shape, int rounds) {
    std::vector<Case> cases = bench::layer_cases<Backend>(ctx, shape);
    const std::size_t steps = cases.size();
    // The library's threads keep spinning for a while: what follows them must not be the dense step.
    if (std::is_same_v<Backend, backend::CpuBlas>) cases.push_back(library_product(options.threads, 2048));
    for (const index_t n : {1536, 2048})
      cases.push_back(bench::square_product<Backend>(ctx, n));
    const std::string title =
        shape.name + ", " + std::to_string(shape.tokens) + " tokens" +
        (shape.micro_batches > 1 ? " x " + std::to_string(shape.micro_batches) + " micro-batches a step"
                                 : std::string());
    const auto measured = in_turn(cases, rounds, name + ", " + title);
    page.line("### " + title);
    targets.begin(title);
    page.line();
    write_layer(page, targets, measured, steps, shape.micro_batches == 1);
  };
  if (options.wants("layers")) {
    for (bench::LayerShape shape : {bench::up_shape(), bench::down_shape()}) {
      shape.tokens = options.tokens;
      layers(shape, options.rounds);
    }
  }
  if (options.wants("tokens")) {
    bench::LayerShape shape = bench::up_shape();
    shape.tokens = 2 * options.tokens;
    layers(shape, more_rounds);
  }
  if (options.wants("accumulation")) {
    for (bench::LayerShape shape : {bench::up_shape(), bench::down_shape()}) {
      shape.tokens = options.tokens;
      shape.micro_batches = 8;
      layers(shape, more_rounds);
    }
  }
  if (options.wants("parts")) {
    const auto measured = in_turn(bench::part_cases<Backend>(ctx, one, bench::up_shape()), 2 * options.rounds,
                                  name + ", parts");
    page.line("### Parts, 768 -> 3072, 2048 tokens");
    targets.begin("parts");
    page.line();
    write_parts(page, targets, measured);
    write_cost_model(page, measured, bench::up_shape());
  }
  if (options.wants("fit")) {
    page.line("### Phase 1: gradients to a basis, 768 -> 3072, one thread");
    targets.begin("phase 1");
    page.line();
    page.paragraph(
        "Accumulation of the gradients and the fit, which uses the Gram sums' own memory; memory at the peak "
        "beyond them.");
    write_parts(page, targets,
                in_turn(bench::fit_cases<Backend>(one, bench::up_shape(), 132), 1, name + ", fit", false));
  }
}

Options parse(int argc, char** argv) {
  Options o;
  o.command = "benchmark_compare";
  for (int i = 1; i < argc; ++i)
    o.command += std::string(" ") + argv[i];
  for (int i = 1; i < argc; i += 2) {
    const std::string key = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(key + " needs a value");
    const std::string value = argv[i + 1];
    const auto positive = [&] { return bench::positive_number(key, value); };
    if (key == "--rounds") {
      o.rounds = static_cast<int>(positive());
    } else if (key == "--threads") {
      o.threads = static_cast<int>(positive());
    } else if (key == "--tokens") {
      o.tokens = positive();
    } else if (key == "--output") {
      o.output = value;
    } else if (key == "--only") {
      if (std::set<std::string>{"layers", "tokens", "accumulation", "parts", "fit"}.count(value) == 0) {
        throw std::invalid_argument("--only is " + value +
                                    ", expected layers, tokens, accumulation, parts or fit");
      }
      o.only.insert(value);
    } else if (key == "--backends") {
      o.backends.clear();
      std::istringstream list(value);
      for (std::string part; std::getline(list, part, ',');) {
        if (part != "cpu" && part != "cpu_blas") {
          throw std::invalid_argument("--backends has " + part + ", expected cpu and cpu_blas");
        }
        o.backends.insert(part);
      }
    } else {
      throw std::invalid_argument("unknown option " + key);
    }
  }
  return o;
}

void write_head(Page& page, const Options& options, const std::string& load_before) {
  page.line("# Steps of one layer on " + bench::proc_value("/proc/cpuinfo", "model name") + ", " +
            std::to_string(bench::core_count()) + " cores");
  page.line();
  page.line("| | |");
  page.line("|---|---|");
  page.line("| command | `" + options.command + "` |");
  page.line("| date | " + bench::today() + " |");
  page.line("| sparsegrad | " SPARSEGRAD_VERSION " |");
  page.line("| processor | " + bench::cpu_name() + ", " + std::to_string(bench::core_count()) +
            " cores, L2 cache " + bench::proc_value("/proc/cpuinfo", "cache size") + " |");
  page.line("| memory | " + bench::proc_value("/proc/meminfo", "MemTotal") + " |");
  page.line("| threads | " + std::to_string(options.threads) + " |");
  page.line("| compiler | " + bench::compiler() + " |");
  page.line("| BLAS | " + bench::blas() + " |");
  page.line("| Eigen | " + bench::eigen() + " |");
  page.line("| load before | " + load_before + " |");
  page.line();
  page.paragraph(
      "A step is forward, dX, the weight's gradient, selection, optimizer and the change of the weight, with "
      "a bias; float. All steps of a table run in turn, " +
      std::to_string(options.rounds) +
      " rounds of them (half as many of 4096 tokens and of micro-batches), and each is compared with the "
      "dense step of its own round: `x dense`. GFLOP/s and the share of the peak are of the best round, and "
      "count the products of forward, dX and the core gradient, not those of the weight update. Sparse steps "
      "keep 28 000 entries (1.2 % of the weight) unless the row says all.");
}

void write(const std::string& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
  out.close();
  if (!out) throw std::runtime_error("cannot write " + file);
  std::fprintf(stderr, "wrote %s\n", file.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    Page page;
    Targets targets;
    write_head(page, options, bench::load());
    measure<backend::CpuBlas>(page, targets, options);
    measure<backend::Cpu>(page, targets, options);
    page.line(bench::wrapped("Targets met: " + std::to_string(targets.met()) + ", missed: " +
                             std::to_string(targets.missed()) + ". Load after: " + bench::load() + "."));
    if (!options.output.empty()) {
      write(options.output + "/steps.md", page.text());
      const nlohmann::ordered_json summary = {
          {"command", options.command}, {"date", bench::today()}, {"targets", targets.all()}};
      write(options.output + "/steps.json", summary.dump(1) + "\n");
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "benchmark_compare: %s\n", e.what());
    return 1;
  }
}
