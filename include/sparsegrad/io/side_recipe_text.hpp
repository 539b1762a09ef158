// Side recipes as text, for command lines, settings and logs.
#pragma once

#include <charconv>
#include <cstdint>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "../core/config.hpp"
#include "../core/error.hpp"
#include "../side_recipe.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

[[noreturn]] inline void refuse_side_recipe(std::string_view text) {
  throw ValueError("side recipe \"" + std::string(text) +
                   "\": expected identity, full, a rank such as 64, an energy fraction such as 0.95, "
                   "random[:rank[:seed]] or hadamard[:seed]");
}

/// The integer that is all of `part`; `text` is what an error names.
template <class Number>
Number side_recipe_number(std::string_view part, std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
  if (error != std::errc() || end != part.data() + part.size()) refuse_side_recipe(text);
  return value;
}
/// The fraction that is all of `text`. By a stream, since libc++ before 20 has no from_chars of double.
inline double side_recipe_fraction(std::string_view text) {
  if (text.find_first_not_of("0123456789.eE+-") != std::string_view::npos || text.front() == '+')
    refuse_side_recipe(text);
  std::istringstream in{std::string(text)};
  in.imbue(std::locale::classic());
  double value = 0;
  if (!(in >> value) || in.peek() != std::istringstream::traits_type::eof()) refuse_side_recipe(text);
  return value;
}

}  // namespace detail

/// The recipe that a text names.
///
/// | text | recipe |
/// |---|---|
/// | `identity` | `SideRecipe::identity()` |
/// | `full` | `SideRecipe::hosvd()` |
/// | `64` | `SideRecipe::hosvd(64)` |
/// | `0.95`, `1.0` | `SideRecipe::hosvd(Truncation::energy(0.95))`; a number with a point or an exponent |
/// | `random`, `random:64`, `random:64:7`, `random:full:7` | `SideRecipe::random(rank, seed)` |
/// | `hadamard`, `hadamard:7` | `SideRecipe::hadamard(seed)` |
///
/// Throws ValueError, naming the text and what is expected, for any other text.
inline SideRecipe parse_side_recipe(std::string_view text) {
  const std::string_view head = text.substr(0, text.find(':'));
  const bool bare = head.size() == text.size();
  const std::string_view rest = bare ? std::string_view() : text.substr(head.size() + 1);
  if (bare && head == "identity") return SideRecipe::identity();
  if (bare && head == "full") return SideRecipe::hosvd();
  if (head == "hadamard") {
    if (bare) return SideRecipe::hadamard();
    return SideRecipe::hadamard(detail::side_recipe_number<std::uint64_t>(rest, text));
  }
  if (head == "random") {
    if (bare) return SideRecipe::random();
    const std::string_view rank_text = rest.substr(0, rest.find(':'));
    const bool full = rank_text == "full";
    const index_t rank = full ? 0 : detail::side_recipe_number<index_t>(rank_text, text);
    if (!full && rank < 1) detail::refuse_side_recipe(text);
    if (rank_text.size() == rest.size()) return SideRecipe::random(rank);
    const std::string_view seed_text = rest.substr(rank_text.size() + 1);
    return SideRecipe::random(rank, detail::side_recipe_number<std::uint64_t>(seed_text, text));
  }
  if (!bare || head.empty()) detail::refuse_side_recipe(text);
  if (head.find_first_not_of("0123456789") == std::string_view::npos) {
    return SideRecipe::hosvd(detail::side_recipe_number<index_t>(head, text));
  }
  return SideRecipe::hosvd(Truncation::energy(detail::side_recipe_fraction(head)));
}

/// The text that `parse_side_recipe` turns into the same recipe; "custom" for a callable, which no
/// text names.
inline std::string to_string(const SideRecipe& recipe) {
  const auto seeded = [](std::string text, std::uint64_t seed) {
    if (seed != SideRecipe::default_seed) text.append(1, ':').append(std::to_string(seed));
    return text;
  };
  if (const auto* random = std::get_if<SideRecipe::Random>(&recipe.choice())) {
    if (random->rank > 0) return seeded("random:" + std::to_string(random->rank), random->seed);
    return random->seed == SideRecipe::default_seed ? "random" : seeded("random:full", random->seed);
  }
  if (const auto* hadamard = std::get_if<SideRecipe::Hadamard>(&recipe.choice())) {
    return seeded("hadamard", hadamard->seed);
  }
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&recipe.choice());
  if (hosvd == nullptr) return "identity";
  const Truncation::Choice& truncation = hosvd->truncation.choice();
  if (const auto* rank = std::get_if<Truncation::Rank>(&truncation)) return std::to_string(rank->rank);
  if (const auto* energy = std::get_if<Truncation::Energy>(&truncation)) {
    std::string text = number_text(energy->fraction);
    // All of the energy must not read as rank 1.
    if (text.find_first_not_of("0123456789") == std::string::npos) text += ".0";
    return text;
  }
  return std::holds_alternative<Truncation::Custom>(truncation) ? "custom" : "full";
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
