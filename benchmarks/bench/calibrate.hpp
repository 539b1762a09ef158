// The cost model's weights on this machine, measured in a few seconds.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../measured_model.hpp"
#include "../memory_walk.hpp"
#include "../part_cases.hpp"

namespace sparsegrad::bench {

struct Calibration {
  CostModel model;                ///< of every part's least processor time
  std::vector<CostModel> rounds;  ///< of single rounds: how far to trust `model`
  double product_flops = 0;       ///< of the dense product, a second, best
  double memory_bytes = 0;        ///< read and written a second by y += a x on arrays beyond the caches, best
};

/// The parts run in turn for about `seconds`, five rounds at least. The weights are ratios of processor times: all parts use
/// all threads, and what else the machine does would lengthen the wall-clock time of a long part more often than that of a
/// short one.
template <class Backend>
Calibration calibrate(typename Backend::Context& ctx, const LayerShape& shape, double seconds) {
  typename Backend::Context one_thread(1);
  const std::vector<Case> cases = part_cases<Backend>(ctx, one_thread, shape);
  std::vector<Work> works;
  for (const std::string_view name : model_parts) {
    const auto part = std::find_if(cases.begin(), cases.end(), [&](const Case& c) { return c.name == name; });
    if (part == cases.end()) throw std::logic_error("no part is named " + std::string(name));
    works.push_back(part->prepare());
  }
  works.push_back(memory_walk<Backend>(ctx));
  for (const Work& work : works)
    work.run();

  const auto model_of = [&](const std::vector<double>& seconds_of) {
    return measured_model(shape, [&](std::string_view name) {
      const auto part = static_cast<std::size_t>(std::find(model_parts.begin(), model_parts.end(), name) -
                                                 model_parts.begin());
      return PartTime{seconds_of[part], works[part].flops};
    });
  };
  Calibration c;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> best(works.size(), infinity);
  double product_wall = infinity;
  double memory_wall = infinity;
  const auto start = std::chrono::steady_clock::now();
  const auto passed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (c.rounds.size() < 5 || passed() < seconds) {
    std::vector<Sample> round;
    std::vector<double> cpu;
    for (std::size_t i = 0; i < works.size(); ++i) {
      round.push_back(time(works[i]));
      cpu.push_back(round[i].cpu);
      best[i] = std::min(best[i], cpu[i]);
    }
    c.rounds.push_back(model_of(cpu));
    product_wall = std::min(product_wall, round.front().wall);
    memory_wall = std::min(memory_wall, round.back().wall);
  }
  c.model = model_of(best);
  c.product_flops = works.front().flops / product_wall;
  c.memory_bytes = works.back().bytes / memory_wall;
  return c;
}

}  // namespace sparsegrad::bench
