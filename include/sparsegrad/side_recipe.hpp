// SideRecipe: how one side of a basis is made, and how many vectors it keeps.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/config.hpp"
#include "core/error.hpp"

namespace sparsegrad {

/// What a side is when a basis is fitted.
///
/// | rule | text | the side |
/// |---|---|---|
/// | `identity()` | `identity` | not rotated, nothing stored |
/// | `full()` | `full` | all n singular vectors |
/// | `fixed(r)` | `64` | the leading r (all n where r > n) |
/// | `energy(share)` | `0.95` | the leading r, r the smallest with sum_{i<r} lambda_i >= share sum_i lambda_i |
/// | `custom(f)` | - | the leading f(lambda), lambda the energies of the n vectors, descending |
/// | `random(r, seed)` | `random`, `random:64`, `random:64:7` | r random orthonormal vectors (0: n) |
/// | `hadamard(seed)` | `hadamard`, `hadamard:7` | randomised block Hadamard transform, full |
///
/// lambda: eigenvalues of the side's Gram matrix. Identity, random and fast transform need no gradients.
class SideRecipe {
 public:
  enum class Kind { identity, full, fixed, energy, custom, random, hadamard };
  using Function = std::function<index_t(std::span<const double> energies)>;

  static constexpr std::uint64_t default_seed = 1;

  /// As `full()`.
  SideRecipe() = default;

  static SideRecipe identity() { return SideRecipe(Kind::identity); }
  static SideRecipe full() { return SideRecipe(Kind::full); }
  /// Throws ValueError unless rank >= 1.
  static SideRecipe fixed(index_t rank) {
    if (rank < 1) throw ValueError("rank is " + std::to_string(rank) + ", expected rank >= 1");
    SideRecipe rule(Kind::fixed);
    rule.rank_ = rank;
    return rule;
  }
  /// Throws ValueError unless 0 < share <= 1.
  static SideRecipe energy(double share) {
    if (!(share > 0 && share <= 1)) {
      throw ValueError("energy share is " + number(share) + ", expected 0 < share <= 1");
    }
    SideRecipe rule(Kind::energy);
    rule.share_ = share;
    return rule;
  }
  /// Throws ValueError when `function` is empty.
  static SideRecipe custom(Function function) {
    if (!function) throw ValueError("a custom rank rule needs a function, got an empty one");
    SideRecipe rule(Kind::custom);
    rule.function_ = std::move(function);
    return rule;
  }
  /// `rank` 0: as many as the side's extent. Throws ValueError when rank < 0.
  static SideRecipe random(index_t rank = 0, std::uint64_t seed = default_seed) {
    if (rank < 0) {
      throw ValueError("rank of a random side is " + std::to_string(rank) + ", expected >= 0 (0: full)");
    }
    SideRecipe rule(Kind::random);
    rule.rank_ = rank;
    rule.seed_ = seed;
    return rule;
  }
  static SideRecipe hadamard(std::uint64_t seed = default_seed) {
    SideRecipe rule(Kind::hadamard);
    rule.seed_ = seed;
    return rule;
  }

  /// The rule that `text` names (see the table). Throws ValueError when it names none.
  static SideRecipe parse(std::string_view text) {
    const std::string_view head = text.substr(0, text.find(':'));
    const bool bare = head.size() == text.size();
    std::string_view rest = bare ? std::string_view() : text.substr(head.size() + 1);
    if (bare && head == "identity") return identity();
    if (bare && head == "full") return full();
    if (head == "hadamard") {
      if (bare) return hadamard();
      return hadamard(whole<std::uint64_t>(rest, text));
    }
    if (head == "random") {
      if (bare) return random();
      const std::string_view rank_text = rest.substr(0, rest.find(':'));
      const index_t rank = rank_text == "full" ? 0 : whole<index_t>(rank_text, text);
      if (rank_text != "full" && rank < 1) unknown(text);
      if (rank_text.size() == rest.size()) return random(rank);
      return random(rank, whole<std::uint64_t>(rest.substr(rank_text.size() + 1), text));
    }
    if (!bare || head.empty()) unknown(text);
    if (head.find_first_not_of("0123456789") == std::string_view::npos) {
      return fixed(whole<index_t>(head, text));
    }
    return energy(whole<double>(head, text));
  }

  Kind kind() const { return kind_; }
  /// The text that `parse` turns into the same rule ("custom" for a callable).
  std::string to_string() const {
    std::string seed;
    if (seed_ != default_seed) seed.append(1, ':').append(std::to_string(seed_));
    switch (kind_) {
      case Kind::identity:
        return "identity";
      case Kind::full:
        return "full";
      case Kind::fixed:
        return std::to_string(rank_);
      case Kind::energy:
        return number(share_);
      case Kind::custom:
        return "custom";
      case Kind::random:
        if (rank_ == 0) return std::string(seed.empty() ? "random" : "random:full").append(seed);
        return std::string("random:").append(std::to_string(rank_)).append(seed);
      case Kind::hadamard:
        return std::string("hadamard").append(seed);
    }
    return "?";
  }
  /// The kind in one word: "identity", "full", "fixed", "energy", "custom", "random", "hadamard".
  const char* name() const {
    switch (kind_) {
      case Kind::identity:
        return "identity";
      case Kind::full:
        return "full";
      case Kind::fixed:
        return "fixed";
      case Kind::energy:
        return "energy";
      case Kind::custom:
        return "custom";
      case Kind::random:
        return "random";
      case Kind::hadamard:
        return "hadamard";
    }
    return "?";
  }

  /// Requested rank of `fixed` and `random`; 0: the extent.
  index_t rank() const { return rank_; }
  double share() const { return share_; }
  std::uint64_t seed() const { return seed_; }
  /// Whether the side comes from gradients.
  bool needs_gradients() const {
    return kind_ == Kind::full || kind_ == Kind::fixed || kind_ == Kind::energy || kind_ == Kind::custom;
  }

  /// Rank of a side of extent n. `energies` descend and may be fewer than n (a sketch knows the leading
  /// ones); `total` is the sum over all n. A side without energy keeps one vector under `energy`.
  /// Throws ValueError when the known energies do not reach the share, or a callable's answer is not in
  /// [1, n].
  index_t choose(std::span<const double> energies, index_t extent, double total) const {
    const auto known = static_cast<index_t>(energies.size());
    if (extent == 0) return 0;
    switch (kind_) {
      case Kind::fixed:
        return std::min(rank_, extent);
      case Kind::random:
        return rank_ == 0 ? extent : std::min(rank_, extent);
      case Kind::energy: {
        double sum = 0;
        for (index_t i = 0; i < known; ++i) {
          sum += energies[static_cast<std::size_t>(i)];
          if (sum >= share_ * total) return i + 1;
        }
        if (known >= extent) return extent;  // the sum's rounding
        throw ValueError("energy share " + number(share_) + " is out of reach: the " + std::to_string(known) +
                         " leading vectors of " + std::to_string(extent) + " that the sketch knows hold " +
                         number(total > 0 ? sum / total : 0.0));
      }
      case Kind::custom: {
        const index_t rank = function_(energies);
        if (rank < 1 || rank > extent) {
          throw ValueError("the custom rank rule answered " + std::to_string(rank) +
                           ", expected 1 <= rank <= extent = " + std::to_string(extent));
        }
        return rank;
      }
      default:
        return extent;
    }
  }

 private:
  explicit SideRecipe(Kind kind) : kind_(kind) {}

  [[noreturn]] static void unknown(std::string_view text) {
    throw ValueError("rank rule \"" + std::string(text) +
                     "\": expected identity, full, a rank such as 64, an energy share such as 0.95, "
                     "random[:rank[:seed]] or hadamard[:seed]");
  }
  template <class N>
  static N whole(std::string_view part, std::string_view text) {
    N value{};
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size()) unknown(text);
    return value;
  }
  static std::string number(double value) {
    char text[32];
    const auto [end, error] = std::to_chars(text, text + sizeof text, value);
    std::string out = error == std::errc() ? std::string(text, end) : std::string("?");
    // A share of 1 must not read as the rank 1.
    if (out.find_first_not_of("0123456789") == std::string::npos) out += ".0";
    return out;
  }

  Kind kind_ = Kind::full;
  index_t rank_ = 0;
  double share_ = 0;
  std::uint64_t seed_ = default_seed;
  Function function_;
};

}  // namespace sparsegrad
