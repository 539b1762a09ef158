// The loop that answers the commands of benchmark_cases, for one backend and type.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../grid_cases.hpp"
#include "../memory_walk.hpp"
#include "../part_cases.hpp"
#include "options.hpp"

namespace sparsegrad::bench {

using Json = nlohmann::ordered_json;

inline Json memory_json(const Memory& m) {
  return {{"weight", m.weight}, {"gradient", m.gradient},       {"optimizer", m.optimizer},
          {"basis", m.basis},   {"saved_input", m.saved_input}, {"scratch", m.scratch}};
}

inline void answer(const Json& json) {
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

inline void describe(const CaseOptions& o, const std::vector<GridCase>& cases) {
  Json list = Json::array();
  for (const GridCase& c : cases) {
    Json one = {{"name", c.what.name}, {"family", c.family}, {"plan", c.plan}, {"chosen", c.chosen}};
    if (!c.what.over.empty()) one["over"] = c.what.over;
    if (c.what.most_ratio > 0) one["most_ratio"] = c.what.most_ratio;
    if (c.what.most_seconds > 0) one["most_seconds"] = c.what.most_seconds;
    list.push_back(one);
  }
  answer({{"machine", machine_json<Json>()},
          {"sparsegrad", SPARSEGRAD_VERSION},
          {"backend", o.backend},
          {"dtype", o.dtype},
          {"lora_rank", equal_lora_rank(o.shape)},
          {"cases", list}});
}

/// Steps, the machine's own rates, and parts: of a type of 16 bits those that read tokens.
template <class Backend, class T>
std::vector<GridCase> all_cases(typename Backend::Context& ctx, typename Backend::Context& one_thread,
                                const CaseOptions& o) {
  std::vector<GridCase> cases = grid_cases<Backend, T>(ctx, o.shape, o.rank);
  const auto add = [&cases](Case c, const char* family) {
    cases.push_back({.what = std::move(c), .family = family});
  };
  add(square_product<Backend, T>(ctx, 2048), "machine");
  add({.name = "memory walk", .prepare = [&ctx] { return memory_walk<Backend>(ctx); }}, "machine");
  add(square_product<Backend, T>(ctx, 4096), "part");
  if constexpr (is_low_precision<T>) {
    for (Case& c : token_parts<Backend, T>(ctx, o.shape))
      add(std::move(c), "part");
  } else {
    for (Case& c : part_cases<Backend>(ctx, one_thread, o.shape))
      add(std::move(c), "part");
    for (Case& c : fit_cases<Backend>(ctx, o.shape, o.gradients))
      add(std::move(c), "part");
  }
  return cases;
}

template <class Backend, class T>
void serve(const CaseOptions& o) {
  typename Backend::Context ctx(o.threads);
  typename Backend::Context one_thread(1);
  const std::vector<GridCase> cases = all_cases<Backend, T>(ctx, one_thread, o);
  describe(o, cases);
  std::map<std::string, Work> prepared;
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
    const Work& work =
        at != prepared.end() ? at->second : prepared.emplace(name, found->what.prepare()).first->second;
    const Sample sample = time(work);
    Json json = {{"wall", sample.wall}, {"cpu", sample.cpu}, {"flops", work.flops}, {"bytes", work.bytes}};
    if (work.memory) json["memory"] = memory_json(work.memory());
    if (work.extra_bytes) json["extra_bytes"] = work.extra_bytes();
    answer(json);
  }
}

}  // namespace sparsegrad::bench
