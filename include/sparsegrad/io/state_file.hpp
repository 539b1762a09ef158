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

#include "../core/float_bits.hpp"
#include "../core_optimizer.hpp"
#include "../default_backend.hpp"
#include "../sparse_adam.hpp"
#include "../sparse_gradient.hpp"
#include "../tucker_basis.hpp"
#include "safetensors.hpp"

namespace sparsegrad::io {

namespace detail {

inline constexpr const char* basis_type = "tucker_basis 1";
inline constexpr const char* adam_type = "sparse_adam 1";
inline constexpr const char* delta_type = "sparse_gradient 1";

inline void require_type(const SafetensorsFile& file, const std::string& prefix, const char* expected) {
  const auto at = file.metadata().find(prefix + "type");
  if (at == file.metadata().end()) {
    throw IoError(file.path() + ": holds nothing under '" + prefix + "', expected a " + expected);
  }
  if (at->second != expected) {
    throw IoError(file.path() + ": '" + prefix + "' is a '" + at->second + "', expected a '" + expected +
                  "'");
  }
}

/// A one-dimensional tensor of `count` elements of type X.
template <class X>
std::vector<X> read_list(const SafetensorsFile& file, const std::string& name, index_t count) {
  const std::vector<index_t> shape{count};
  (void)file.find(name, shape);
  return file.read<X>(name);
}
/// A one-dimensional tensor of any length.
template <class X>
std::vector<X> read_list(const SafetensorsFile& file, const std::string& name) {
  const Tensor tensor = file.find(name);
  if (tensor.shape.size() != 1) {
    throw file.error(name, "has shape " + shape_list_text(tensor.shape) + ", expected one extent");
  }
  return file.read<X>(name);
}

template <class X>
void require_finite(const SafetensorsFile& file, const std::string& name, const std::vector<X>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!is_finite(values[i])) {
      throw file.error(name, "has " + std::string(is_nan(values[i]) ? "NaN" : "Inf") + " at element " +
                                 std::to_string(i) + ", expected finite numbers");
    }
  }
}

/// [rows, cols] of a core with 32-bit positions.
inline void require_core(const SafetensorsFile& file, const std::string& name, index_t rows, index_t cols) {
  const index_t limit = std::numeric_limits<stored_index_t>::max();
  if (rows < 0 || cols < 0 || rows > limit || cols > limit || (rows > 0 && cols > limit / rows)) {
    throw file.error(
        name, "says " + shape_text(rows, cols) + ", expected extents >= 0 whose product is below 2^31");
  }
}

inline void require_positions(const SafetensorsFile& file, const std::string& name,
                              const std::vector<stored_index_t>& index, index_t size) {
  for (std::size_t e = 0; e < index.size(); ++e) {
    if (index[e] < 0 || index[e] >= size || (e > 0 && index[e] <= index[e - 1])) {
      throw file.error(name, "has position " + std::to_string(index[e]) + " at element " + std::to_string(e) +
                                 ", expected strictly rising positions in [0, " + std::to_string(size) + ")");
    }
  }
}

/// Runs f; what it refuses becomes an IoError of this file.
template <class F>
auto as_io_error(const SafetensorsFile& file, const std::string& prefix, F&& f) {
  try {
    return f();
  } catch (const IoError&) {
    throw;
  } catch (const Error& error) {
    throw IoError(file.path() + ": '" + prefix + "': " + error.what());
  } catch (const std::bad_alloc&) {
    throw IoError(file.path() + ": '" + prefix + "' needs more memory than there is");
  }
}

/// The value named `text` of an enumeration whose values are 0 .. last.
template <class Enum>
Enum enum_from_text(const SafetensorsFile& file, const std::string& key, Enum last) {
  const std::string& text = file.metadata(key);
  std::string all;
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    if (text == to_string(static_cast<Enum>(i))) return static_cast<Enum>(i);
    all += (i > 0 ? ", " : "") + std::string(to_string(static_cast<Enum>(i)));
  }
  throw IoError(file.path() + ": metadata '" + key + "' is '" + text + "', expected one of " + all);
}

template <class T, Backend B>
void put_side(typename B::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
              const BasisSide<T, B>& side, const SideReport& report) {
  writer.metadata(prefix + "kind", to_string(side.kind()));
  writer.add(prefix + "extents", {2}, std::vector<std::int64_t>{side.extent(), side.rank()});
  if (side.kind() == SideKind::hadamard) {
    writer.add(prefix + "signs", {side.extent()}, side.host_signs(ctx));
  } else if (side.kind() != SideKind::identity) {
    writer.add(prefix + "factor", {side.rank(), side.extent()}, side.host_factor(ctx));
  }
  writer.add(prefix + "spectrum", {static_cast<index_t>(report.spectrum.size())}, report.spectrum);
  writer.add(prefix + "energy", {2}, std::vector<double>{report.kept_energy, report.tail_energy});
}

template <class T, Backend B>
std::pair<BasisSide<T, B>, SideReport> get_side(typename B::Context& ctx, const SafetensorsFile& file,
                                                const std::string& prefix) {
  using Side = BasisSide<T, B>;
  // Files of version 0.1 call the Hadamard transform by another name.
  const bool old_name = file.metadata(prefix + "kind") == "fast_transform";
  const SideKind kind =
      old_name ? SideKind::hadamard : enum_from_text(file, prefix + "kind", SideKind::random);
  const std::vector<std::int64_t> extents = read_list<std::int64_t>(file, prefix + "extents", 2);
  const index_t n = extents[0];
  const index_t r = extents[1];
  if (n < 0 || n > std::numeric_limits<stored_index_t>::max() || r < 0 || r > n) {
    throw file.error(prefix + "extents", "says extent " + std::to_string(n) + " and rank " +
                                             std::to_string(r) + ", expected 0 <= rank <= extent < 2^31");
  }
  const bool full = kind == SideKind::identity || kind == SideKind::hadamard;
  if (full && r != n) {
    throw file.error(prefix + "extents", "says extent " + std::to_string(n) + " and rank " +
                                             std::to_string(r) + ", expected equal ones for a side of kind " +
                                             to_string(kind));
  }
  SideReport report;
  report.spectrum = read_list<double>(file, prefix + "spectrum");
  require_finite(file, prefix + "spectrum", report.spectrum);
  const std::vector<double> energy = read_list<double>(file, prefix + "energy", 2);
  report.kept_energy = energy[0];
  report.tail_energy = energy[1];

  if (kind == SideKind::identity) return {Side::identity(n), std::move(report)};
  if (kind == SideKind::hadamard) {
    const std::vector<T> signs = read_list<T>(file, prefix + "signs", n);
    return {as_io_error(file, prefix, [&] { return Side::hadamard_from_signs(ctx, signs); }),
            std::move(report)};
  }
  const std::vector<index_t> shape{r, n};
  (void)file.find(prefix + "factor", shape);
  const std::vector<T> factor = file.read<T>(prefix + "factor");
  require_finite(file, prefix + "factor", factor);
  return {as_io_error(file, prefix, [&] { return Side::from_host_rows(ctx, r, n, factor, kind); }),
          std::move(report)};
}

}  // namespace detail

/// Adds a basis: kinds, extents, factors or signs, and its report (spectra, energies).
template <class T, Backend B>
void put(typename B::Context& ctx, SafetensorsWriter& writer, const std::string& prefix,
         const TuckerBasis<T, B>& basis) {
  const BasisReport& report = basis.report();
  writer.metadata(prefix + "type", detail::basis_type);
  detail::put_side<T, B>(ctx, writer, prefix + "out.", basis.out(), report.out);
  detail::put_side<T, B>(ctx, writer, prefix + "in.", basis.in(), report.in);
  writer.add(prefix + "gradients", {1}, std::vector<std::int64_t>{report.gradients});
  writer.add(prefix + "total_energy", {1}, std::vector<double>{report.total_energy});
}

/// Reads a basis; the factors' shapes and finiteness are checked, their orthonormality is not (see
/// TuckerBasis::orthogonality_defect).
template <class T, Backend B = DefaultBackend>
std::shared_ptr<const TuckerBasis<T, B>> get_basis(typename B::Context& ctx, const SafetensorsFile& file,
                                                   const std::string& prefix) {
  detail::require_type(file, prefix, detail::basis_type);
  auto [out, out_report] = detail::get_side<T, B>(ctx, file, prefix + "out.");
  auto [in, in_report] = detail::get_side<T, B>(ctx, file, prefix + "in.");
  BasisReport report;
  report.out = std::move(out_report);
  report.in = std::move(in_report);
  report.gradients = detail::read_list<std::int64_t>(file, prefix + "gradients", 1)[0];
  report.total_energy = detail::read_list<double>(file, prefix + "total_energy", 1)[0];
  if (report.gradients < 0) {
    throw file.error(prefix + "gradients", "is " + std::to_string(report.gradients) + ", expected >= 0");
  }
  return TuckerBasis<T, B>::from_sides(std::move(out), std::move(in), std::move(report));
}

namespace detail {

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
    const std::size_t to = std::min(text.find(',', from), text.size());
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
    throw IoError(file.path() + ": holds nothing under '" + prefix + "', expected an optimizer's state");
  s.type = type->second;
  const bool adam = s.type == detail::adam_type;
  if (!adam && !file.metadata().contains(prefix + "arrays")) {
    throw IoError(file.path() + ": '" + prefix + "' is a '" + s.type + "', expected an optimizer's state");
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

/// Makes a SparseAdam as the file has it, options included.
template <class T, Backend B = DefaultBackend>
SparseAdam<T, B> get_adam(typename B::Context& ctx, const SafetensorsFile& file, const std::string& prefix) {
  detail::require_type(file, prefix, detail::adam_type);
  const OptimizerState<T> state = get_state<T>(file, prefix);
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
std::shared_ptr<const TuckerBasis<T, B>> load_basis(typename B::Context& ctx, const std::string& path) {
  return get_basis<T, B>(ctx, SafetensorsFile(path), "");
}
template <detail::FiledOptimizer O>
void load(typename detail::MachineOf<O>::Context& ctx, const std::string& path, O& optimizer) {
  get(ctx, SafetensorsFile(path), "", optimizer);
}
template <class T, Backend B = DefaultBackend>
SparseGradient<T, B> load_delta(typename B::Context& ctx, const std::string& path) {
  return get_delta<T, B>(ctx, SafetensorsFile(path), "");
}

}  // namespace sparsegrad::io
