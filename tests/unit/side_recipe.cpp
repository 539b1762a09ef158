#include "sparsegrad/side_recipe.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "support/stacks.hpp"

using sparsegrad::index_t;
using sparsegrad::SideRecipe;
using sparsegrad::ValueError;
using sparsegrad::test::message_of;

TEST_CASE("rank rule: text and back") {
  for (const char* text : {"identity", "full", "64", "1", "0.95", "1.0", "0.001", "random", "random:64",
                           "random:64:7", "random:full:7", "hadamard", "hadamard:7"}) {
    CAPTURE(text);
    CHECK(SideRecipe::parse(text).to_string() == text);
  }
  CHECK(SideRecipe::parse("64").kind() == SideRecipe::Kind::fixed);
  CHECK(SideRecipe::parse("64").rank() == 64);
  CHECK(SideRecipe::parse("1").kind() == SideRecipe::Kind::fixed);
  CHECK(SideRecipe::parse("1.0").kind() == SideRecipe::Kind::energy);
  CHECK(SideRecipe::parse("5e-1").share() == 0.5);
  CHECK(SideRecipe::parse("random:full").rank() == 0);
  CHECK(SideRecipe::parse("random:5:18446744073709551615").seed() == 18446744073709551615ULL);
  CHECK(SideRecipe::custom([](auto) { return index_t{1}; }).to_string() == "custom");
  CHECK(std::string(SideRecipe::parse("hadamard:3").name()) == "hadamard");
  CHECK(std::string(SideRecipe().name()) == "full");
}

TEST_CASE("rank rule: refused texts") {
  for (const char* text : {"",          " ",           "Full",        "full:1",
                           "identity:", "0",           "-3",          "64x",
                           "1.5",       "0.0",         "nan",         "inf",
                           "-0.5",      ":",           "random:",     "random:0",
                           "random:-1", "random:64:",  "random:64:x", "random:64:1:2",
                           "hadamard:", "hadamard:-1", "64:1",        "99999999999999999999",
                           "qr"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(SideRecipe::parse(text), ValueError);
  }
  CHECK(message_of<ValueError>([] { SideRecipe::parse("qr"); }) ==
        "rank rule \"qr\": expected identity, full, a rank such as 64, an energy share such as 0.95, "
        "random[:rank[:seed]] or hadamard[:seed]");
  CHECK(message_of<ValueError>([] { SideRecipe::fixed(0); }) == "rank is 0, expected rank >= 1");
  CHECK(message_of<ValueError>([] { SideRecipe::energy(1.5); }) ==
        "energy share is 1.5, expected 0 < density <= 1");
  CHECK(message_of<ValueError>([] { SideRecipe::random(-1); }) ==
        "rank of a random side is -1, expected >= 0 (0: full)");
  CHECK(message_of<ValueError>([] { SideRecipe::custom(nullptr); }) ==
        "a custom rank rule needs a function, got an empty one");
}

TEST_CASE("rank rule: choice") {
  const std::vector<double> energies{8, 4, 2, 1, 1, 0};
  const auto choose = [&](const SideRecipe& rule) { return rule.choose(energies, 6, 16); };
  CHECK(choose(SideRecipe::full()) == 6);
  CHECK(choose(SideRecipe::identity()) == 6);
  CHECK(choose(SideRecipe::fixed(4)) == 4);
  CHECK(choose(SideRecipe::fixed(40)) == 6);
  CHECK(choose(SideRecipe::random(40)) == 6);
  CHECK(choose(SideRecipe::energy(0.5)) == 1);
  CHECK(choose(SideRecipe::energy(0.500001)) == 2);
  CHECK(choose(SideRecipe::energy(0.75)) == 2);
  CHECK(choose(SideRecipe::energy(1)) == 5);
  CHECK(choose(SideRecipe::custom([](auto e) { return static_cast<index_t>(e.size()) / 2; })) == 3);
  CHECK(SideRecipe::energy(0.9).choose(std::vector<double>{0, 0, 0}, 3, 0) == 1);
  CHECK(SideRecipe::energy(0.9).choose({}, 0, 0) == 0);
  CHECK(message_of<ValueError>([&] { choose(SideRecipe::custom([](auto) { return index_t{7}; })); }) ==
        "the custom rank rule answered 7, expected 1 <= rank <= extent = 6");
  CHECK_THROWS_AS(choose(SideRecipe::custom([](auto) { return index_t{0}; })), ValueError);
  CHECK(message_of<ValueError>([&] {
          SideRecipe::energy(0.99).choose(std::vector<double>{8, 4}, 6, 16);
        }) ==
        "energy share 0.99 is out of reach: the 2 leading vectors of 6 that the sketch knows hold 0.75");
}
