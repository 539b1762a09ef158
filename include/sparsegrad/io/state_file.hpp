// Bases, optimizer states and sparse deltas in safetensors files, each alone or many in one file.
//
//     SafetensorsWriter writer;                      SafetensorsFile file("state.safetensors");
//     put(ctx, writer, "up.basis.", *basis);         auto basis = get_basis<float>(ctx, file, "up.basis.");
//     put(ctx, writer, "up.adam.", adam);            get(ctx, file, "up.adam.", adam);
//     writer.write("state.safetensors");
//
// Every object is a group of tensors and metadata whose names begin with its prefix; the metadata
// `<prefix>type` says what it is. Numbers keep their bits. Readers throw IoError, naming file,
// tensor or prefix.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core_optimizer.hpp"
#include "../default_backend.hpp"
#include "../sparse_adam.hpp"
#include "../sparse_gradient.hpp"
#include "basis_file.hpp"
#include "checked_read.hpp"
#include "safetensors.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

namespace detail {

inline constexpr const char* adam_type = "sparse_adam 1";
inline constexpr const char* delta_type = "sparse_gradient 1";

/// "m,v" <-> {"m", "v"}
template <class Named>
std::string names(const std::vector<Named>& list, std::string (*name)(const Named&)) {
  std::string text;
  for (const Named& named : list)
    text += (text.empty() ? "" : ",") + name(named);
  return text;
}
/// The list under `key`; files of version 0.1, which know SparseAdam alone, have no lists.
inline std::vector<std::string> read_names(const SafetensorsFile& file, const std::string& key,
                                           const char* of_adam) {
  const auto at = file.metadata().find(key);
  const std::string text = at == file.metadata().end() ? of_adam : at->second;
  std::vector<std::string> list;
  for (std::size_t from = 0; from < text.size();) {
    const std::size_t to = (std::min)(text.find(',', from), text.size());
    list.push_back(text.substr(from, to - from));
    from = to + 1;
  }
  return list;
}

}  // namespace detail

/// Adds the state of any optimizer, with its options.
template <class T>
void put_state(SafetensorsWriter& writer, const std::string& prefix, OptimizerState<T> s) {
  using Array = typename OptimizerState<T>::Array;
  using Number = std::pair<std::string, double>;
  using Text = std::pair<std::string, std::string>;
  const auto n = static_cast<index_t>(s.compact ? s.index.size() : static_cast<std::size_t>(s.rows * s.cols));
  writer.metadata(prefix + "type", s.type);
  writer.metadata(prefix + "form", s.compact ? "compact" : "dense");
  writer.metadata(prefix + "arrays", detail::names<Array>(s.arrays, [](const Array& a) { return a.name; }));
  writer.metadata(prefix + "numbers",
                  detail::names<Number>(s.numbers, [](const Number& x) { return x.first; }));
  writer.metadata(prefix + "texts", detail::names<Text>(s.texts, [](const Text& x) { return x.first; }));
  for (const Text& text : s.texts)
    writer.metadata(prefix + text.first, text.second);
  std::vector<double> numbers;
  for (const Number& number : s.numbers)
    numbers.push_back(number.second);
  writer.add(prefix + "extents", {3}, std::vector<std::int64_t>{s.rows, s.cols, s.capacity});
  const auto coefficients = static_cast<index_t>(numbers.size());
  writer.add(prefix + "coefficients", {coefficients}, std::move(numbers));
  writer.add(prefix + "step", {1}, std::vector<std::int64_t>{s.steps});
  if (s.compact) writer.add(prefix + "index", {n}, std::move(s.index));
  for (Array& array : s.arrays)
    writer.add(prefix + array.name, {n}, std::move(array.values));
  if (s.counted) writer.add(prefix + "count", {n}, std::move(s.count));
}

/// Reads the state of any optimizer into host memory, checked but for what the optimizer's
/// `restore` checks.
template <class T>
OptimizerState<T> get_state(const SafetensorsFile& file, const std::string& prefix) {
  OptimizerState<T> s;
  const auto type = file.metadata().find(prefix + "type");
  if (type == file.metadata().end())
    throw IoError(detail::nothing_there(file, prefix) + ", expected an optimizer's state");
  s.type = type->second;
  const bool adam = s.type == detail::adam_type;
  if (!adam && !file.metadata().contains(prefix + "arrays")) {
    throw IoError(detail::about(file, prefix) + " is a '" + s.type + "', expected an optimizer's state");
  }
  const std::vector<std::int64_t> extents = detail::read_list<std::int64_t>(file, prefix + "extents", 3);
  s.rows = extents[0];
  s.cols = extents[1];
  detail::require_core(file, prefix + "extents", s.rows, s.cols);
  s.capacity = extents[2];
  const std::vector<std::string> numbers = detail::read_names(file, prefix + "numbers", "beta1,beta2,eps");
  const std::vector<double> coefficients =
      detail::read_list<double>(file, prefix + "coefficients", static_cast<index_t>(numbers.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i)
    s.numbers.emplace_back(numbers[i], coefficients[i]);
  for (const std::string& name : detail::read_names(file, prefix + "texts", "semantics,overflow"))
    s.texts.emplace_back(name, file.metadata(prefix + name));
  if (adam) {
    (void)detail::enum_from_text(file, prefix + "semantics", AdamSemantics::dense_core);
    (void)detail::enum_from_text(file, prefix + "overflow", Overflow::error);
  }
  s.steps = detail::read_list<std::int64_t>(file, prefix + "step", 1)[0];
  const std::string& form = file.metadata(prefix + "form");
  if (form != "compact" && form != "dense") {
    throw IoError(file.path() + ": metadata '" + prefix + "form' is '" + form +
                  "', expected compact or dense");
  }
  s.compact = form == "compact";
  index_t n = s.rows * s.cols;
  if (s.compact) {
    s.index = detail::read_list<stored_index_t>(file, prefix + "index");
    detail::require_positions(file, prefix + "index", s.index, n);
    n = static_cast<index_t>(s.index.size());
  }
  for (const std::string& name : detail::read_names(file, prefix + "arrays", "m,v"))
    s.arrays.push_back({name, detail::read_list<T>(file, prefix + name, n)});
  for (const auto& array : s.arrays)
    detail::require_finite(file, prefix + array.name, array.values);
  s.counted = adam ? s.text("semantics") == to_string(AdamSemantics::per_entry_step)
                   : file.contains(prefix + "count");
  if (s.counted) s.count = detail::read_list<std::int32_t>(file, prefix + "count", n);
  return s;
}

namespace detail {

/// T and B of a SparseGradient<T, B>.
template <class Gradient>
struct GradientTypes {};
template <class T, Backend B>
struct GradientTypes<SparseGradient<T, B>> {
  using Number = T;
  using Machine = B;
};

/// T and B of an optimizer.
template <class O>
using NumberOf = typename GradientTypes<typename O::Gradient>::Number;
template <class O>
using MachineOf = typename GradientTypes<typename O::Gradient>::Machine;

/// An optimizer on the core that says by its member type `Gradient`, a SparseGradient<T, B>, which T
/// and B it works with.
template <class O>
concept FiledOptimizer = CoreOptimizer<O, NumberOf<O>, MachineOf<O>>;

}  // namespace detail

/// Adds an optimizer's state and its options. The optimizer has the member types of
/// MomentOptimizer: `Gradient` says which T and B it works with.
template <detail::FiledOptimizer O>
void put(typename detail::MachineOf<O>::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
         const O& optimizer) {
  put_state(writer, prefix, optimizer.state(ctx));
}

/// Restores an optimizer that was made with the same extents and options; anything else is an
/// IoError that says what differs, and the optimizer stays as it was.
template <detail::FiledOptimizer O>
void get(typename detail::MachineOf<O>::Context& ctx, const SafetensorsFile& file, const std::string& prefix,
         O& optimizer) {
  const auto state = get_state<detail::NumberOf<O>>(file, prefix);
  detail::as_io_error(file, prefix, [&] { optimizer.restore(ctx, state); });
}

/// Makes a SparseAdam as the file has it, options included. Throws IoError for a capacity of which
/// the file holds so little that its memory is nobody's wish: above 2^22 and 64 times the entries.
/// `get` into an optimizer of that capacity reads such a file.
template <class T, Backend B = DefaultBackend>
SparseAdam<T, B> get_adam(typename B::Context& ctx, const SafetensorsFile& file, const std::string& prefix) {
  detail::require_type(file, prefix, detail::adam_type);
  const OptimizerState<T> state = get_state<T>(file, prefix);
  const auto held = static_cast<index_t>(state.index.size());
  const index_t most = (std::max)(index_t{1} << 22, 64 * held);
  if (state.compact && state.capacity > most) {
    throw file.error(prefix + "extents", "says capacity " + std::to_string(state.capacity) +
                                             " for a state of " + std::to_string(held) +
                                             " entries, expected at most " + std::to_string(most) +
                                             "; io::get into an optimizer of that capacity reads it");
  }
  return detail::as_io_error(file, prefix, [&] {
    SparseAdamOptions options{.beta1 = state.number("beta1"),
                              .beta2 = state.number("beta2"),
                              .eps = state.number("eps"),
                              .capacity = state.capacity};
    options.semantics = detail::enum_from_text(file, prefix + "semantics", AdamSemantics::dense_core);
    options.overflow = detail::enum_from_text(file, prefix + "overflow", Overflow::error);
    if (state.compact && !SparseAdam<T, B>::starts_compact(state.rows, state.cols, options)) {
      throw ValueError("the state is compact, expected dense for its extents and capacity");
    }
    SparseAdam<T, B> adam(ctx, state.rows, state.cols, options);
    adam.restore(ctx, state);
    return adam;
  });
}

/// Adds a sparse gradient or delta: extents, positions (unless dense) and values.
template <class T, Backend B>
void put(typename B::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
         const SparseGradient<T, B>& delta) {
  const index_t n = delta.count();
  writer.metadata(prefix + "type", detail::delta_type);
  writer.metadata(prefix + "form", delta.dense() ? "dense" : "sparse");
  writer.add(prefix + "extents", {2}, std::vector<std::int64_t>{delta.rows(), delta.cols()});
  if (!delta.dense()) {
    std::vector<stored_index_t> index(static_cast<std::size_t>(n));
    if (n > 0) B::template download<stored_index_t>(ctx, delta.indices(), index.data(), n);
    writer.add(prefix + "index", {n}, std::move(index));
  }
  std::vector<T> values(static_cast<std::size_t>(n));
  if (n > 0) B::template download<T>(ctx, delta.values(), values.data(), n);
  writer.add(prefix + "values", {n}, std::move(values));
}

/// Reads a sparse gradient or delta; its capacity is its number of entries.
template <class T, Backend B = DefaultBackend>
SparseGradient<T, B> get_delta(typename B::Context& ctx, const SafetensorsFile& file,
                               const std::string& prefix) {
  detail::require_type(file, prefix, detail::delta_type);
  const std::vector<std::int64_t> extents = detail::read_list<std::int64_t>(file, prefix + "extents", 2);
  detail::require_core(file, prefix + "extents", extents[0], extents[1]);
  const index_t size = extents[0] * extents[1];
  const std::string& form = file.metadata(prefix + "form");
  if (form != "sparse" && form != "dense") {
    throw IoError(file.path() + ": metadata '" + prefix + "form' is '" + form +
                  "', expected sparse or dense");
  }
  std::vector<stored_index_t> index;
  index_t n = size;
  if (form == "sparse") {
    index = detail::read_list<stored_index_t>(file, prefix + "index");
    detail::require_positions(file, prefix + "index", index, size);
    n = static_cast<index_t>(index.size());
  }
  const std::vector<T> values = detail::read_list<T>(file, prefix + "values", n);
  detail::require_finite(file, prefix + "values", values);
  SparseGradient<T, B> delta(ctx, extents[0], extents[1], n);
  delta.set_count(n);
  if (n > 0) B::template upload<T>(ctx, values.data(), delta.values(), n);
  if (!delta.dense() && n > 0) {
    B::template upload<stored_index_t>(ctx, index.data(), delta.indices(), n);
  }
  return delta;
}

/// One object (basis, optimizer, delta or group) as a file of its own.
template <class Object>
void save(typename Object::Context& ctx, const std::string& path, const Object& object) {
  SafetensorsWriter writer;
  put(ctx, writer, "", object);
  writer.write(path);
}
template <class T, Backend B = DefaultBackend>
std::shared_ptr<const TuckerBasis<T, B>> load_basis(typename B::Context& ctx, const std::string& path,
                                                    double tolerance = TuckerBasis<T, B>::default_tolerance) {
  return get_basis<T, B>(ctx, SafetensorsFile(path), "", tolerance);
}
template <detail::FiledOptimizer O>
void load(typename detail::MachineOf<O>::Context& ctx, const std::string& path, O& optimizer) {
  get(ctx, SafetensorsFile(path), "", optimizer);
}
template <class T, Backend B = DefaultBackend>
SparseGradient<T, B> load_delta(typename B::Context& ctx, const std::string& path) {
  return get_delta<T, B>(ctx, SafetensorsFile(path), "");
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
