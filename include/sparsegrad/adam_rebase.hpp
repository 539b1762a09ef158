// Adam's moments carried over from one basis to another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

#include "adam_options.hpp"
#include "moment_transport.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// transport_moments of a SparseAdam's state. Entries with counts of their own
/// (AdamSemantics::per_entry_step) have biases of their own, which a rotation would mix: both
/// moments are first freed of them, then given the bias of the largest count, which becomes every
/// entry's,
///
///     m <- m (1 - b1^most) / (1 - b1^count)        v <- v (1 - b2^most) / (1 - b2^count)
///
/// `energy_before` is that of the moments as they were, the losses are parts of the corrected
/// moments' energy.
template <class T, Backend B>
RebaseReport transport_adam(typename B::Context& ctx, OptimizerState<T>& s, const TuckerBasis<T, B>& from,
                            const TuckerBasis<T, B>& to, const SparseAdamOptions& options,
                            std::optional<index_t> room) {
  std::vector<T>& m = s.array("m");
  std::vector<T>& v = s.array("v");
  const double before = moment_energy<T>(m);
  const std::int32_t most = s.count.empty() ? 0 : *std::max_element(s.count.begin(), s.count.end());
  for (std::size_t e = 0; e < s.count.size(); ++e) {
    if (s.count[e] <= 0) continue;
    const auto factor = [&](double beta) {
      return (1 - std::pow(beta, most)) / (1 - std::pow(beta, s.count[e]));
    };
    m[e] = static_cast<T>(factor(options.beta1) * static_cast<double>(m[e]));
    v[e] = static_cast<T>(factor(options.beta2) * static_cast<double>(v[e]));
  }
  RebaseReport report = transport_moments<T, B>(ctx, s, from, to, room);
  report.energy_before = before;
  return report;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
