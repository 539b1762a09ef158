// What a reducer remembers of one process's gradients, in a safetensors file: every rank writes its
// own, beside the group's, which is the same on all ranks.
//
//     io::save(ctx, "residuals." + std::to_string(comm.rank()), *reducer);
//     io::load(ctx, "residuals." + std::to_string(comm.rank()), *reducer);    // after the group's
//
// or, in a file that holds more, put and get with a prefix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../gradient_reducer.hpp"
#include "state_file.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

namespace detail {

inline constexpr const char* reducer_type = "gradient_reducer 1";

inline std::string residual_name(const std::string& prefix, std::size_t i) {
  return prefix + "residual." + std::to_string(i);
}

}  // namespace detail

/// Adds GradientReducer::state of this process. Throws StateError as that does.
template <class C, Backend B>
void put(typename B::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
         const GradientReducer<C, B>& reducer) {
  ReducerState<C> state = reducer.state(ctx);
  std::vector<std::int64_t> sizes;
  writer.metadata(prefix + "type", detail::reducer_type);
  writer.add(prefix + "rank", {2}, std::vector<std::int64_t>{state.rank, state.ranks});
  for (std::size_t i = 0; i < state.residuals.size(); ++i) {
    const auto n = static_cast<index_t>(state.residuals[i].size());
    sizes.push_back(n);
    if (n > 0) writer.add(detail::residual_name(prefix, i), {n}, std::move(state.residuals[i]));
  }
  const auto layers = static_cast<index_t>(sizes.size());
  writer.add(prefix + "sizes", {layers}, std::move(sizes));
}

/// Reads a reducer's state, checked but for what GradientReducer::restore checks.
template <class C>
ReducerState<C> get_reducer_state(const SafetensorsFile& file, const std::string& prefix) {
  detail::require_type(file, prefix, detail::reducer_type);
  const std::vector<std::int64_t> rank = detail::read_list<std::int64_t>(file, prefix + "rank", 2);
  for (const std::int64_t number : rank) {
    if (number < 0 || number > (std::numeric_limits<int>::max)())
      throw file.error(prefix + "rank", "has " + std::to_string(number) + ", expected one in [0, 2^31)");
  }
  ReducerState<C> state;
  state.rank = static_cast<int>(rank[0]);
  state.ranks = static_cast<int>(rank[1]);
  for (const std::int64_t size : detail::read_list<std::int64_t>(file, prefix + "sizes")) {
    const std::string name = detail::residual_name(prefix, state.residuals.size());
    state.residuals.emplace_back();
    if (size == 0) continue;
    state.residuals.back() = detail::read_list<C>(file, name, size);
    detail::require_finite(file, name, state.residuals.back());
  }
  return state;
}

/// Restores the reducer of the process that has saved it, after the group's `get`. Throws IoError for
/// what does not fit, as the state of another rank or number of ranks, StateError as
/// GradientReducer::restore. The reducer is then as it was.
template <class C, Backend B>
void get(typename B::Context& ctx, const SafetensorsFile& file, const std::string& prefix,
         GradientReducer<C, B>& reducer) {
  const ReducerState<C> state = get_reducer_state<C>(file, prefix);
  try {
    reducer.restore(ctx, state);
  } catch (const ValueError& error) {
    throw IoError(detail::about(file, prefix) + ": " + error.what());
  }
}

template <class C, Backend B>
void load(typename B::Context& ctx, const std::string& path, GradientReducer<C, B>& reducer) {
  get<C, B>(ctx, SafetensorsFile(path), "", reducer);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
