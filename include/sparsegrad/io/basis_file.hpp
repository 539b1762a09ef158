// Bases in safetensors files: see state_file.hpp.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core/float_bits.hpp"
#include "../default_backend.hpp"
#include "../tucker_basis.hpp"
#include "checked_read.hpp"
#include "safetensors.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

namespace detail {

inline constexpr const char* basis_type = "tucker_basis 1";

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
  if (n < 0 || n > (std::numeric_limits<stored_index_t>::max)() || r < 0 || r > n) {
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
  for (const double value : report.spectrum)
    if (value < 0) throw file.error(prefix + "spectrum", "has " + number_text(value, 3) + ", expected >= 0");
  // NaN stands for an energy that is not known.
  const bool kept_fits = is_nan(energy[0]) || (energy[0] >= 0 && energy[0] <= 1);
  const bool tail_fits = is_nan(energy[1]) || (energy[1] >= 0 && is_finite(energy[1]));
  if (!kept_fits || !tail_fits) {
    throw file.error(prefix + "energy", "is [" + number_text(energy[0], 3) + ", " +
                                            number_text(energy[1], 3) +
                                            "], expected a fraction in [0, 1] and a finite energy >= 0");
  }

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

inline void require_orthonormal(const SafetensorsFile& file, const std::string& name, double defect,
                                double tolerance) {
  if (!is_nan(tolerance) && defect <= tolerance) return;
  throw file.error(name, "has rows that are not orthonormal: the largest defect is " +
                             number_text(defect, 3) + ", expected at most " + number_text(tolerance, 3));
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

/// Reads a basis. Stored factors must be finite and orthonormal to the tolerance, in the measure and
/// at the cost of TuckerBasis::from_factors, O(n r^2) a side.
template <class T, Backend B = DefaultBackend>
std::shared_ptr<const TuckerBasis<T, B>> get_basis(typename B::Context& ctx, const SafetensorsFile& file,
                                                   const std::string& prefix,
                                                   double tolerance = TuckerBasis<T, B>::default_tolerance) {
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
  if (!is_finite(report.total_energy) || report.total_energy < 0) {
    throw file.error(prefix + "total_energy",
                     "is " + number_text(report.total_energy, 3) + ", expected a finite number >= 0");
  }
  auto basis = TuckerBasis<T, B>::from_sides(std::move(out), std::move(in), std::move(report));
  const OrthogonalityDefect defect = basis->orthogonality_defect(ctx);
  detail::require_orthonormal(file, prefix + "out.factor", defect.out, tolerance);
  detail::require_orthonormal(file, prefix + "in.factor", defect.in, tolerance);
  return basis;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
