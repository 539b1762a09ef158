// Truncation: how many of a side's singular vectors are kept.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "core/config.hpp"
#include "core/error.hpp"
#include "core/number.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Rule that says how many singular vectors a truncated HOSVD keeps on one side.
///
/// | rule | number r of vectors that a side of n has |
/// |---|---|
/// | `full()` | n |
/// | `rank(r)` | r, or n where r > n |
/// | `energy(e)` | the smallest r with lambda_1 + ... + lambda_r >= e (lambda_1 + ... + lambda_n) |
/// | `custom(f)` | f(lambda) |
///
/// lambda are the eigenvalues of the side's Gram matrix in descending order: squared singular
/// values, the energies of the singular vectors.
class Truncation {
 public:
  /// A rule of the caller's: from the energies, descending, to the number of vectors.
  using Function = std::function<index_t(std::span<const double> energies)>;

  /// Keeps all vectors.
  struct Full {};
  /// Keeps a number of vectors.
  struct Rank {
    index_t rank = 1;  ///< >= 1
  };
  /// Keeps the leading vectors that hold a fraction of the energy.
  struct Energy {
    double fraction = 1;  ///< in (0, 1]
  };
  /// Asks a function.
  struct Custom {
    Function function;  ///< not empty
  };
  /// One of the four rules.
  using Choice = std::variant<Full, Rank, Energy, Custom>;

  /// Keeps all vectors, as `full()`.
  Truncation() = default;

  /// Keeps all vectors.
  static Truncation full() { return Truncation(Full{}); }
  /// Keeps the leading `rank` vectors. Throws ValueError unless rank >= 1.
  static Truncation rank(index_t rank) {
    if (rank < 1) throw ValueError("rank is " + std::to_string(rank) + ", expected rank >= 1");
    return Truncation(Rank{rank});
  }
  /// Keeps the fewest leading vectors that hold `fraction` of the energy. Throws ValueError unless
  /// 0 < fraction <= 1.
  static Truncation energy(double fraction) {
    if (!is_finite(fraction) || fraction <= 0 || fraction > 1) {
      throw ValueError("energy fraction is " + number_text(fraction) + ", expected 0 < fraction <= 1");
    }
    return Truncation(Energy{fraction});
  }
  /// Keeps as many leading vectors as `function` answers. Throws ValueError when `function` is
  /// empty.
  static Truncation custom(Function function) {
    if (!function) throw ValueError("a custom truncation needs a function, got an empty one");
    return Truncation(Custom{std::move(function)});
  }

  /// The rule itself, for std::visit and std::get_if.
  const Choice& choice() const { return choice_; }

  /// Number of vectors kept on a side of extent n.
  ///
  /// `energies` descend; a sketch knows only the leading ones, so there may be fewer than n.
  /// `total` is the sum over all n. A side without energy keeps one vector under `energy`. O(n).
  /// Throws ValueError when the known energies hold less than the fraction asked for, or a
  /// callable's answer is outside [1, n].
  index_t choose(std::span<const double> energies, index_t extent, double total) const {
    if (extent == 0) return 0;
    if (const auto* fixed = std::get_if<Rank>(&choice_)) return (std::min)(fixed->rank, extent);
    if (const auto* part = std::get_if<Energy>(&choice_)) {
      return choose_by_energy(part->fraction, energies, extent, total);
    }
    if (const auto* custom = std::get_if<Custom>(&choice_)) {
      const index_t rank = custom->function(energies);
      if (rank < 1 || rank > extent) {
        throw ValueError("the custom truncation answered " + std::to_string(rank) +
                         ", expected 1 <= rank <= extent = " + std::to_string(extent));
      }
      return rank;
    }
    return extent;
  }

 private:
  explicit Truncation(Choice choice) : choice_(std::move(choice)) {}

  static index_t choose_by_energy(double fraction, std::span<const double> energies, index_t extent,
                                  double total) {
    const auto known = static_cast<index_t>(energies.size());
    double sum = 0;
    for (index_t i = 0; i < known; ++i) {
      sum += energies[static_cast<std::size_t>(i)];
      if (sum >= fraction * total) return i + 1;
    }
    if (known >= extent) return extent;  // the sum's rounding
    throw ValueError("energy fraction " + number_text(fraction) + " is out of reach: the " +
                     std::to_string(known) + " leading vectors of " + std::to_string(extent) +
                     " that the sketch knows hold " + number_text(total > 0 ? sum / total : 0.0));
  }

  Choice choice_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
