// SparseAdamOptions: what Adam means for entries that are not in every gradient, and its numbers.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/number.hpp"
#include "core_optimizer.hpp"
#include "moment_layout.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What Adam means for entries that are not in every gradient. In all of them
///
///     m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2      d = -lr m^ / (sqrt(v^) + eps)
///     m^ = m / (1 - b1^t)         v^ = v / (1 - b2^t)
///
/// (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015).
enum class AdamSemantics {
  /// torch.optim.SparseAdam: only the entries of S move, t is the global step, and eps stands
  /// beside the uncorrected sqrt(v): d = -lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps). An
  /// entry that is first met late, or again after it was evicted, has the bias correction of the
  /// global step: its first update is larger than a new Adam's, by up to (1 - b1) / sqrt(1 - b2),
  /// 3.2 with the usual betas.
  torch,
  /// Only the entries of S move; t is the number of gradients that the entry itself has met.
  per_entry_step,
  /// The moments of all entries move in every step: an entry that is not in S has g = 0. D has all
  /// entries of the state. With k = all this is torch.optim.Adam, and torch.optim.AdamW with the
  /// layer's decay. In a compact state, entries never met (or evicted) have moments 0.
  dense_core,
};

/// "torch", "per_entry_step", "dense_core"
inline const char* to_string(AdamSemantics semantics) {
  switch (semantics) {
    case AdamSemantics::torch:
      return "torch";
    case AdamSemantics::per_entry_step:
      return "per_entry_step";
    case AdamSemantics::dense_core:
      return "dense_core";
  }
  return "?";
}

/// Options of SparseAdam.
struct SparseAdamOptions {
  /// Decay of the first moments m, 0 <= beta1 < 1.
  double beta1 = 0.9;
  /// Decay of the second moments v, 0 <= beta2 < 1.
  double beta2 = 0.999;
  /// At least the smallest normal number of the moments' type, so that an entry without any
  /// gradient gets d = 0, not 0 / 0; at most the largest times sqrt(1 - beta2).
  double eps = 1e-8;
  /// What happens to entries that are not in a gradient.
  AdamSemantics semantics = AdamSemantics::torch;
  /// Entries of a compact state; 0: dense. A capacity whose compact form is no smaller than the
  /// dense one is dense too.
  index_t capacity = 0;
  /// What becomes of new entries when a compact state is full.
  Overflow overflow = Overflow::evict_smallest;

  /// The form of the moments that these options ask for.
  MomentLayout layout() const {
    return {.capacity = capacity, .overflow = overflow, .counts = semantics == AdamSemantics::per_entry_step};
  }

  /// Throws ValueError unless 0 <= beta < 1, eps is at least T's smallest normal number, and
  /// eps / sqrt(1 - beta2), the largest that bias correction makes of it, is finite in T.
  template <class T>
  void require_valid() const {
    for (const auto& [name, beta] : {std::pair("beta1", beta1), std::pair("beta2", beta2)}) {
      if (!is_finite(beta) || beta < 0 || beta >= 1) {
        throw ValueError(std::string(name) + " is " + number_text(beta) + ", expected 0 <= " + name + " < 1");
      }
    }
    const double most = static_cast<double>((std::numeric_limits<T>::max)()) * std::sqrt(1 - beta2);
    if (eps <= 0 || eps > most || !normal_in<T>(eps)) {
      throw ValueError("eps is " + number_text(eps) +
                       ", expected a finite number >= " + number_text((std::numeric_limits<T>::min)()) +
                       ", the smallest normal one, and <= " + number_text(static_cast<T>(most)));
    }
  }

  /// Writes the options to a saved state, for `restore` to compare.
  template <class T>
  void describe(OptimizerState<T>& s) const {
    s.type = "sparse_adam 1";
    s.numbers = {{"beta1", beta1}, {"beta2", beta2}, {"eps", eps}};
    s.texts = {{"semantics", to_string(semantics)}};
  }

  /// Whether all members are equal.
  friend bool operator==(const SparseAdamOptions&, const SparseAdamOptions&) = default;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
