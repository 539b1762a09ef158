// SideRecipe: how one side of a basis is made.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "core/config.hpp"
#include "core/error.hpp"
#include "core/number.hpp"
#include "truncation.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Recipe for one side of a Tucker basis.
///
///     const auto out = SideRecipe::hosvd(64), in = SideRecipe::identity();
///     const auto basis = TuckerBasis<float>::fit(ctx, sums, out, in);
///
/// | recipe | the side's matrix U [n, r] | needs gradients | stored |
/// |---|---|---|---|
/// | `identity()` | I | no | nothing |
/// | `hosvd(truncation)` | the leading singular vectors of the side's unfolding | yes | n r |
/// | `random(rank, seed)` | random orthonormal vectors, uniform over all such | no | n r |
/// | `hadamard(seed)` | randomised block Hadamard transform, r = n | no | n signs |
///
/// `io/side_recipe_text.hpp` reads and writes recipes as text.
class SideRecipe {
 public:
  /// Seed of a random or Hadamard side where none is given.
  static constexpr std::uint64_t default_seed = 1;

  /// No rotation.
  struct Identity {};
  /// Leading singular vectors of the gradients' unfolding.
  struct Hosvd {
    Truncation truncation;  ///< how many of them
  };
  /// Random orthonormal vectors.
  struct Random {
    index_t rank = 0;                   ///< how many of them, at most the extent; 0: the extent
    std::uint64_t seed = default_seed;  ///< of the random numbers
  };
  /// Randomised block Hadamard transform.
  struct Hadamard {
    std::uint64_t seed = default_seed;  ///< of the random signs
  };
  /// One of the four recipes.
  using Choice = std::variant<Identity, Hosvd, Random, Hadamard>;

  /// All singular vectors, as `hosvd()`.
  SideRecipe() = default;

  /// No rotation: this side of the core is the gradient's own.
  static SideRecipe identity() { return SideRecipe(Identity{}); }
  /// The leading singular vectors; all of them unless truncated.
  static SideRecipe hosvd(Truncation truncation = {}) { return SideRecipe(Hosvd{std::move(truncation)}); }
  /// The leading `rank` singular vectors, as `hosvd(Truncation::rank(rank))`: all where the side's
  /// extent is less. Throws ValueError unless rank >= 1.
  template <std::integral Integer>
  static SideRecipe hosvd(Integer rank) {
    return hosvd(Truncation::rank(static_cast<index_t>(rank)));
  }
  /// `rank` random orthonormal vectors; 0, or more than the side's extent: as many as that. Throws
  /// ValueError when rank < 0.
  static SideRecipe random(index_t rank = 0, std::uint64_t seed = default_seed) {
    if (rank < 0) {
      throw ValueError("rank of a random side is " + std::to_string(rank) + ", expected >= 0 (0: full)");
    }
    return SideRecipe(Random{rank, seed});
  }
  /// The randomised block Hadamard transform with the signs of `seed`.
  static SideRecipe hadamard(std::uint64_t seed = default_seed) { return SideRecipe(Hadamard{seed}); }

  /// The recipe itself, for std::visit and std::get_if.
  const Choice& choice() const { return choice_; }
  /// Whether the side is computed from gradients.
  bool needs_gradients() const { return std::holds_alternative<Hosvd>(choice_); }

 private:
  explicit SideRecipe(Choice choice) : choice_(std::move(choice)) {}

  Choice choice_ = Hosvd{};
};

namespace detail {

/// A truncation in an error message: "full", "rank 64", "energy 0.95", "custom".
inline std::string describe(const Truncation& truncation) {
  if (const auto* rank = std::get_if<Truncation::Rank>(&truncation.choice())) {
    return "rank " + std::to_string(rank->rank);
  }
  if (const auto* energy = std::get_if<Truncation::Energy>(&truncation.choice())) {
    return "energy " + number_text(energy->fraction);
  }
  return std::holds_alternative<Truncation::Custom>(truncation.choice()) ? "custom" : "full";
}

/// A recipe in an error message: "identity", "hosvd(rank 64)", "random(rank 64, seed 7)",
/// "hadamard(seed 1)".
inline std::string describe(const SideRecipe& recipe) {
  if (const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&recipe.choice())) {
    return "hosvd(" + describe(hosvd->truncation) + ")";
  }
  if (const auto* random = std::get_if<SideRecipe::Random>(&recipe.choice())) {
    return "random(" + (random->rank == 0 ? std::string("full") : "rank " + std::to_string(random->rank)) +
           ", seed " + std::to_string(random->seed) + ")";
  }
  if (const auto* hadamard = std::get_if<SideRecipe::Hadamard>(&recipe.choice())) {
    return "hadamard(seed " + std::to_string(hadamard->seed) + ")";
  }
  return "identity";
}

}  // namespace detail

}  // namespace sparsegrad::SPARSEGRAD_ABI
