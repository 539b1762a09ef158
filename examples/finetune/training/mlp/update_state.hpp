// Updates that are kept beside quantised matrices: hashes of them, and their way to a file and back.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sparsegrad/io/basis_file.hpp>
#include <sparsegrad/io/checked_read.hpp>

#include "models/mlp/accumulated_update.hpp"
#include "training/state_arrays.hpp"

namespace sparsegrad::finetune::detail {

template <class Backend>
using Update = AccumulatedUpdate<float, Backend>;
/// One of each trained matrix; null where its updates go to the matrix.
template <class Backend>
using Updates = std::vector<Update<Backend>*>;
/// The present basis of matrix `number`.
template <class Backend>
using BasisOf = std::function<std::shared_ptr<const TuckerBasis<float, Backend>>(std::size_t number)>;

inline std::string update_name(std::size_t matrix) {
  return fmt::format("update.{}.", matrix);
}
inline std::string term_name(std::size_t matrix, std::size_t term) {
  return fmt::format("update.{}.term.{}.", matrix, term);
}

template <class Backend>
void add_updates(typename Backend::Context& ctx, Hash& hash, const Updates<Backend>& updates) {
  for (const Update<Backend>* update : updates) {
    if (update == nullptr) continue;
    hash.add_value(update->keep());
    for (const auto& term : update->terms()) {
      const auto n = static_cast<std::size_t>(term.core.count());
      add_array<Backend>(ctx, hash, term.core.values(), n);
      if (!term.core.dense()) add_array<Backend>(ctx, hash, term.core.indices(), n);
    }
  }
}

/// The arrays must stay as they are until the file is written. A basis that several matrices have is written once, and the
/// present ones not at all: they are the group's.
template <class Backend>
void put_updates(typename Backend::Context& ctx, io::SafetensorsWriter& writer,
                 const Updates<Backend>& updates, const BasisOf<Backend>& present) {
  std::vector<const TuckerBasis<float, Backend>*> bases;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    if (updates[i] == nullptr) continue;
    const auto& terms = updates[i]->terms();
    std::vector<std::int64_t> basis_of;
    for (std::size_t t = 0; t < terms.size(); ++t) {
      const auto& [basis, core] = terms[t];
      const auto n = static_cast<std::size_t>(core.count());
      writer.add(term_name(i, t) + "values", {core.count()}, std::span<const float>(core.values(), n));
      if (!core.dense())
        writer.add(term_name(i, t) + "positions", {core.count()},
                   std::span<const stored_index_t>(core.indices(), n));
      if (basis == present(i)) {
        basis_of.push_back(-1);
        continue;
      }
      const auto at = std::find(bases.begin(), bases.end(), basis.get());
      basis_of.push_back(at - bases.begin());
      if (at != bases.end()) continue;
      io::put<float, Backend>(ctx, writer, fmt::format("update.basis.{}.", bases.size()), *basis);
      bases.push_back(basis.get());
    }
    writer.add(update_name(i) + "basis_of", {static_cast<index_t>(terms.size())}, std::move(basis_of));
    writer.add(update_name(i) + "keep", {1}, std::vector<double>{updates[i]->keep()});
  }
}

/// Throws IoError unless the file holds these bits.
template <class Backend>
void require_same_updates(typename Backend::Context& ctx, const io::SafetensorsFile& file,
                          const Updates<Backend>& updates) {
  for (std::size_t i = 0; i < updates.size(); ++i) {
    if (updates[i] == nullptr) continue;
    const auto& terms = updates[i]->terms();
    for (std::size_t t = 0; t < terms.size(); ++t) {
      const auto n = static_cast<std::size_t>(terms[t].core.count());
      require_same<Backend>(ctx, file, term_name(i, t) + "values", terms[t].core.values(), n);
      if (!terms[t].core.dense())
        require_same<Backend>(ctx, file, term_name(i, t) + "positions", terms[t].core.indices(), n);
    }
  }
}

/// After the group has its bases again. Throws IoError for anything that put_updates does not write.
template <class Backend>
void get_updates(typename Backend::Context& ctx, const io::SafetensorsFile& file,
                 const Updates<Backend>& updates, const BasisOf<Backend>& present) {
  using Term = typename Update<Backend>::Term;
  std::vector<std::shared_ptr<const TuckerBasis<float, Backend>>> bases;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    if (updates[i] == nullptr) continue;
    const std::string name = update_name(i);
    const auto basis_of = io::detail::read_list<std::int64_t>(file, name + "basis_of");
    const auto keep = io::detail::read_list<double>(file, name + "keep", 1);
    io::detail::require_finite(file, name + "keep", keep);
    std::vector<Term> terms;
    for (std::size_t t = 0; t < basis_of.size(); ++t) {
      const auto known = static_cast<std::int64_t>(bases.size());
      if (basis_of[t] < -1 || basis_of[t] > known) {
        throw file.error(name + "basis_of",
                         fmt::format("has basis {}, expected one in [-1, {}]", basis_of[t], known));
      }
      if (basis_of[t] == known)
        bases.push_back(io::get_basis<float, Backend>(ctx, file, fmt::format("update.basis.{}.", known)));
      auto basis = basis_of[t] < 0 ? present(i) : bases[static_cast<std::size_t>(basis_of[t])];
      const auto values = io::detail::read_list<float>(file, term_name(i, t) + "values");
      io::detail::require_finite(file, term_name(i, t) + "values", values);
      std::vector<stored_index_t> positions;
      const std::string at = term_name(i, t) + "positions";
      const index_t core = basis->rows() * basis->cols();
      if (file.contains(at)) {
        positions = io::detail::read_list<stored_index_t>(file, at);
        io::detail::require_positions(file, at, positions, core);
      } else {
        positions.resize(values.size());
        std::iota(positions.begin(), positions.end(), 0);
      }
      const auto count = static_cast<index_t>(values.size());
      if (positions.size() != values.size() || count > core) {
        throw file.error(at, fmt::format("has {} numbers for {} values of a core of {}", positions.size(),
                                         values.size(), core));
      }
      Term term{std::move(basis), {}};
      term.core = SparseGradient<float, Backend>(ctx, term.basis->rows(), term.basis->cols(), count);
      term.core.assign(ctx, positions, values);
      terms.push_back(std::move(term));
    }
    try {
      updates[i]->restore(keep[0], std::move(terms));
    } catch (const ShapeError& error) {
      throw file.error(name + "basis_of", error.what());
    }
  }
}

}  // namespace sparsegrad::finetune::detail
