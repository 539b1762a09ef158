// A group's whole state in a safetensors file: bases (each once, however many layers share it),
// plans, optimizer states and states of selectors. Weights are the engine's to save.
//
//     io::save(ctx, "state.safetensors", group);     io::load(ctx, "state.safetensors", group);
//
// or, in a file that holds more, put and get with a prefix.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "../sparse_grad_group.hpp"
#include "state_file.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

namespace detail {

inline constexpr const char* group_type = "sparse_grad_group 1";

inline std::string layer_prefix(const std::string& prefix, std::size_t i) {
  return prefix + "layer." + std::to_string(i) + ".";
}

inline Plan plan_from_text(const SafetensorsFile& file, const std::string& key) {
  const std::string& text = file.metadata(key);
  for (const SideOrder out : {SideOrder::project_first, SideOrder::multiply_first})
    for (const SideOrder in : {SideOrder::project_first, SideOrder::multiply_first})
      if (const Plan plan{out, in}; text == to_string(plan)) return plan;
  throw IoError(file.path() + ": metadata '" + key + "' is '" + text + "', expected a plan as '" +
                to_string(Plan()) + "'");
}

}  // namespace detail

/// Adds SparseGradGroup::state. Throws StateError as that does.
template <class T, Backend B, class O>
void put(typename B::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
         const SparseGradGroup<T, B, O>& group) {
  using C = compute_t<T>;
  GroupState<C, B> state = group.state(ctx);
  std::vector<const TuckerBasis<C, B>*> bases;
  std::vector<std::int64_t> basis_of;
  std::vector<std::int64_t> kept;
  writer.metadata(prefix + "type", detail::group_type);
  for (std::size_t i = 0; i < state.layers.size(); ++i) {
    auto& layer = state.layers[i];
    const std::string name = detail::layer_prefix(prefix, i);
    auto at = std::find(bases.begin(), bases.end(), layer.basis.get());
    if (at == bases.end()) {
      put<C, B>(ctx, writer, prefix + "basis." + std::to_string(bases.size()) + ".", *layer.basis);
      at = bases.insert(bases.end(), layer.basis.get());
    }
    basis_of.push_back(at - bases.begin());
    kept.push_back(layer.kept);
    writer.metadata(name + "kind", layer.kind);
    writer.metadata(name + "plan", to_string(layer.plan));
    put_state(writer, name + "adam.", std::move(layer.optimizer));
    const auto add = [&](const char* what, auto& values) {
      if (values.empty()) return;
      const auto n = static_cast<index_t>(values.size());
      writer.add(name + what, {n}, std::move(values));
    };
    add("support", layer.selector.positions);
    add("residual", layer.selector.values);
  }
  const auto layers = static_cast<index_t>(basis_of.size());
  writer.add(prefix + "basis_of", {layers}, std::move(basis_of));
  writer.add(prefix + "kept", {layers}, std::move(kept));
}

/// Reads a group's state, checked as far as files go: what depends on the group
/// SparseGradGroup::restore checks. The bases' factors must be orthonormal to the tolerance.
template <class C, Backend B>
GroupState<C, B> get_group_state(typename B::Context& ctx, const SafetensorsFile& file,
                                 const std::string& prefix,
                                 double tolerance = TuckerBasis<C, B>::default_tolerance) {
  detail::require_type(file, prefix, detail::group_type);
  GroupState<C, B> state;
  std::vector<std::shared_ptr<const TuckerBasis<C, B>>> bases;
  const std::vector<std::int64_t> basis_of = detail::read_list<std::int64_t>(file, prefix + "basis_of");
  std::vector<std::int64_t> kept(basis_of.size());  // files of before 0.3 say nothing of it
  if (file.contains(prefix + "kept")) kept = detail::read_list<std::int64_t>(file, prefix + "kept");
  if (kept.size() != basis_of.size()) {
    throw file.error(prefix + "kept", "has " + std::to_string(kept.size()) + " numbers, expected " +
                                          std::to_string(basis_of.size()) + ", one for each layer");
  }
  for (std::size_t i = 0; i < basis_of.size(); ++i) {
    const auto known = static_cast<std::int64_t>(bases.size());
    if (basis_of[i] < 0 || basis_of[i] > known) {
      throw file.error(prefix + "basis_of", "has basis " + std::to_string(basis_of[i]) + " at layer " +
                                                std::to_string(i) + ", expected one in [0, " +
                                                std::to_string(known) + "]");
    }
    if (basis_of[i] == known) {
      bases.push_back(get_basis<C, B>(ctx, file, prefix + "basis." + std::to_string(known) + ".", tolerance));
    }
    const std::string name = detail::layer_prefix(prefix, i);
    typename GroupState<C, B>::Layer layer;
    layer.basis = bases[static_cast<std::size_t>(basis_of[i])];
    layer.kind = file.metadata(name + "kind");
    layer.plan = detail::plan_from_text(file, name + "plan");
    layer.optimizer = get_state<C>(file, name + "adam.");
    layer.kept = kept[i];
    if (file.metadata().contains(name + "delta.type")) {
      throw file.error(
          name + "delta.type",
          "says that a layer kept a delta, as adapters of version 0.1 did; read it by get_delta into "
          "a CoreAdapter, and save the group anew");
    }
    const index_t core = layer.basis->rows() * layer.basis->cols();
    if (file.contains(name + "support")) {
      layer.selector.positions = detail::read_list<stored_index_t>(file, name + "support");
      detail::require_positions(file, name + "support", layer.selector.positions, core);
    }
    if (file.contains(name + "residual")) {
      layer.selector.values = detail::read_list<C>(file, name + "residual");
      detail::require_finite(file, name + "residual", layer.selector.values);
    }
    state.layers.push_back(std::move(layer));
  }
  return state;
}

/// Restores a group that was made with the same options and layers; anything else is an IoError
/// that says what differs. Throws StateError as SparseGradGroup::restore. The group is then as it
/// was.
template <class T, Backend B, class O>
void get(typename B::Context& ctx, const SafetensorsFile& file, const std::string& prefix,
         SparseGradGroup<T, B, O>& group,
         double tolerance = TuckerBasis<compute_t<T>, B>::default_tolerance) {
  const auto state = get_group_state<compute_t<T>, B>(ctx, file, prefix, tolerance);
  try {
    group.restore(ctx, state);
  } catch (const ValueError& error) {
    throw IoError(detail::about(file, prefix) + ": " + error.what());
  }
}

template <class T, Backend B, class O>
void load(typename B::Context& ctx, const std::string& path, SparseGradGroup<T, B, O>& group,
          double tolerance = TuckerBasis<compute_t<T>, B>::default_tolerance) {
  get<T, B, O>(ctx, SafetensorsFile(path), "", group, tolerance);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
