#include "sparsegrad/side_recipe.hpp"

#include <doctest/doctest.h>

#include <string>
#include <variant>
#include <vector>

#include "sparsegrad/io/side_recipe_text.hpp"
#include "support/stacks.hpp"

using sparsegrad::index_t;
using sparsegrad::parse_side_recipe;
using sparsegrad::SideRecipe;
using sparsegrad::Truncation;
using sparsegrad::ValueError;
using sparsegrad::test::message_of;

namespace {

/// The part of a recipe that a text names; fails the test where it is of another kind.
template <class Recipe>
Recipe parsed(const char* text) {
  const SideRecipe recipe = parse_side_recipe(text);
  REQUIRE(std::holds_alternative<Recipe>(recipe.choice()));
  return std::get<Recipe>(recipe.choice());
}

template <class Rule>
Rule parsed_truncation(const char* text) {
  const Truncation truncation = parsed<SideRecipe::Hosvd>(text).truncation;
  REQUIRE(std::holds_alternative<Rule>(truncation.choice()));
  return std::get<Rule>(truncation.choice());
}

template <class Argument>
constexpr bool makes_hosvd = requires(Argument argument) {
  SideRecipe::hosvd(argument);
};

template <class Recipe>
const Recipe& chosen(const SideRecipe& recipe) {
  REQUIRE(std::holds_alternative<Recipe>(recipe.choice()));
  return std::get<Recipe>(recipe.choice());
}

}  // namespace

TEST_CASE("side recipe: text and back") {
  for (const char* text : {"identity", "full", "64", "1", "0.95", "1.0", "0.001", "random", "random:64",
                           "random:64:7", "random:full:7", "hadamard", "hadamard:7"}) {
    CAPTURE(text);
    CHECK(to_string(parse_side_recipe(text)) == text);
  }
  CHECK(parsed_truncation<Truncation::Rank>("64").rank == 64);
  CHECK(parsed_truncation<Truncation::Rank>("1").rank == 1);
  CHECK(parsed_truncation<Truncation::Energy>("1.0").fraction == 1);
  CHECK(parsed_truncation<Truncation::Energy>("5e-1").fraction == 0.5);
  CHECK(parsed<SideRecipe::Random>("random:full").rank == 0);
  CHECK(parsed<SideRecipe::Random>("random:5:18446744073709551615").seed == 18446744073709551615ULL);
  CHECK(parsed<SideRecipe::Hadamard>("hadamard:3").seed == 3);
  CHECK(parsed<SideRecipe::Hadamard>("hadamard").seed == SideRecipe::default_seed);
  CHECK(to_string(SideRecipe::hosvd(Truncation::custom([](auto) { return index_t{1}; }))) == "custom");
  CHECK(to_string(SideRecipe()) == "full");
}

TEST_CASE("side recipe: refused texts and numbers") {
  for (const char* text : {"",          " ",           "Full",        "full:1",
                           "identity:", "0",           "-3",          "64x",
                           "1.5",       "0.0",         "nan",         "inf",
                           "-0.5",      ":",           "random:",     "random:0",
                           "random:-1", "random:64:",  "random:64:x", "random:64:1:2",
                           "hadamard:", "hadamard:-1", "64:1",        "99999999999999999999",
                           "qr"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_side_recipe(text), ValueError);
  }
  CHECK(message_of<ValueError>([] { parse_side_recipe("qr"); }) ==
        "side recipe \"qr\": expected identity, full, a rank such as 64, an energy fraction such as 0.95, "
        "random[:rank[:seed]] or hadamard[:seed]");
  CHECK(message_of<ValueError>([] { SideRecipe::hosvd(0); }) == "rank is 0, expected rank >= 1");
  CHECK(message_of<ValueError>([] { Truncation::rank(-2); }) == "rank is -2, expected rank >= 1");
  CHECK(message_of<ValueError>([] { Truncation::energy(1.5); }) ==
        "energy fraction is 1.5, expected 0 < fraction <= 1");
  CHECK(message_of<ValueError>([] { SideRecipe::random(-1); }) ==
        "rank of a random side is -1, expected >= 0 (0: full)");
  CHECK(message_of<ValueError>([] { Truncation::custom(nullptr); }) ==
        "a custom truncation needs a function, got an empty one");
}

TEST_CASE("side recipe: factories") {
  CHECK(std::holds_alternative<SideRecipe::Identity>(SideRecipe::identity().choice()));
  CHECK(std::holds_alternative<Truncation::Full>(
      chosen<SideRecipe::Hosvd>(SideRecipe::hosvd()).truncation.choice()));
  for (const SideRecipe& recipe : {SideRecipe::hosvd(64), SideRecipe::hosvd(index_t{64}),
                                   SideRecipe::hosvd(64u), SideRecipe::hosvd(Truncation::rank(64))}) {
    CHECK(to_string(recipe) == "64");
  }
  CHECK(chosen<SideRecipe::Random>(SideRecipe::random(5, 9)).rank == 5);
  CHECK(chosen<SideRecipe::Random>(SideRecipe::random(5, 9)).seed == 9);
  CHECK(chosen<SideRecipe::Hadamard>(SideRecipe::hadamard(9)).seed == 9);
  // A fraction must not be taken for a rank.
  static_assert(makes_hosvd<int> && makes_hosvd<Truncation> && !makes_hosvd<double>);

  CHECK(SideRecipe().needs_gradients());
  CHECK(SideRecipe::hosvd(Truncation::energy(0.5)).needs_gradients());
  CHECK_FALSE(SideRecipe::identity().needs_gradients());
  CHECK_FALSE(SideRecipe::random(3).needs_gradients());
  CHECK_FALSE(SideRecipe::hadamard().needs_gradients());
}

TEST_CASE("side recipe: description in error messages") {
  using sparsegrad::detail::describe;
  CHECK(describe(SideRecipe::identity()) == "identity");
  CHECK(describe(SideRecipe::hosvd()) == "hosvd(full)");
  CHECK(describe(SideRecipe::hosvd(64)) == "hosvd(rank 64)");
  CHECK(describe(SideRecipe::hosvd(Truncation::energy(0.95))) == "hosvd(energy 0.95)");
  CHECK(describe(SideRecipe::hosvd(Truncation::custom([](auto) { return index_t{1}; }))) == "hosvd(custom)");
  CHECK(describe(SideRecipe::random()) == "random(full, seed 1)");
  CHECK(describe(SideRecipe::random(64, 7)) == "random(rank 64, seed 7)");
  CHECK(describe(SideRecipe::hadamard(7)) == "hadamard(seed 7)");
}

TEST_CASE("truncation: choice") {
  const std::vector<double> energies{8, 4, 2, 1, 1, 0};
  const auto choose = [&](const Truncation& truncation) { return truncation.choose(energies, 6, 16); };
  CHECK(choose(Truncation()) == 6);
  CHECK(choose(Truncation::full()) == 6);
  CHECK(choose(Truncation::rank(4)) == 4);
  CHECK(choose(Truncation::rank(40)) == 6);
  CHECK(choose(Truncation::energy(0.5)) == 1);
  CHECK(choose(Truncation::energy(0.500001)) == 2);
  CHECK(choose(Truncation::energy(0.75)) == 2);
  CHECK(choose(Truncation::energy(1)) == 5);
  CHECK(choose(Truncation::custom([](auto e) { return static_cast<index_t>(e.size()) / 2; })) == 3);
  CHECK(Truncation::energy(0.9).choose(std::vector<double>{0, 0, 0}, 3, 0) == 1);
  CHECK(Truncation::energy(0.9).choose({}, 0, 0) == 0);
  CHECK(message_of<ValueError>([&] { choose(Truncation::custom([](auto) { return index_t{7}; })); }) ==
        "the custom truncation answered 7, expected 1 <= rank <= extent = 6");
  CHECK_THROWS_AS(choose(Truncation::custom([](auto) { return index_t{0}; })), ValueError);
  CHECK(message_of<ValueError>([&] {
          Truncation::energy(0.99).choose(std::vector<double>{8, 4}, 6, 16);
        }) ==
        "energy fraction 0.99 is out of reach: the 2 leading vectors of 6 that the sketch knows hold 0.75");
}
