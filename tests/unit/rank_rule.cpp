#include "sparsegrad/rank_rule.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "support/stacks.hpp"

using sparsegrad::index_t;
using sparsegrad::RankRule;
using sparsegrad::ValueError;
using sparsegrad::test::message_of;

TEST_CASE("rank rule: text and back") {
  for (const char* text : {"identity", "full", "64", "1", "0.95", "1.0", "0.001", "random", "random:64",
                           "random:64:7", "random:full:7", "hadamard", "hadamard:7"}) {
    CAPTURE(text);
    CHECK(RankRule::parse(text).to_string() == text);
  }
  CHECK(RankRule::parse("64").kind() == RankRule::Kind::fixed);
  CHECK(RankRule::parse("64").rank() == 64);
  CHECK(RankRule::parse("1").kind() == RankRule::Kind::fixed);
  CHECK(RankRule::parse("1.0").kind() == RankRule::Kind::energy);
  CHECK(RankRule::parse("5e-1").share() == 0.5);
  CHECK(RankRule::parse("random:full").rank() == 0);
  CHECK(RankRule::parse("random:5:18446744073709551615").seed() == 18446744073709551615ULL);
  CHECK(RankRule::custom([](auto) { return index_t{1}; }).to_string() == "custom");
  CHECK(std::string(RankRule::parse("hadamard:3").name()) == "hadamard");
  CHECK(std::string(RankRule().name()) == "full");
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
    CHECK_THROWS_AS(RankRule::parse(text), ValueError);
  }
  CHECK(message_of<ValueError>([] { RankRule::parse("qr"); }) ==
        "rank rule \"qr\": expected identity, full, a rank such as 64, an energy share such as 0.95, "
        "random[:rank[:seed]] or hadamard[:seed]");
  CHECK(message_of<ValueError>([] { RankRule::fixed(0); }) == "rank is 0, expected rank >= 1");
  CHECK(message_of<ValueError>([] { RankRule::energy(1.5); }) ==
        "energy share is 1.5, expected 0 < share <= 1");
  CHECK(message_of<ValueError>([] { RankRule::random(-1); }) ==
        "rank of a random side is -1, expected >= 0 (0: full)");
  CHECK(message_of<ValueError>([] { RankRule::custom(nullptr); }) ==
        "a custom rank rule needs a function, got an empty one");
}

TEST_CASE("rank rule: choice") {
  const std::vector<double> energies{8, 4, 2, 1, 1, 0};
  const auto choose = [&](const RankRule& rule) { return rule.choose(energies, 6, 16); };
  CHECK(choose(RankRule::full()) == 6);
  CHECK(choose(RankRule::identity()) == 6);
  CHECK(choose(RankRule::fixed(4)) == 4);
  CHECK(choose(RankRule::fixed(40)) == 6);
  CHECK(choose(RankRule::random(40)) == 6);
  CHECK(choose(RankRule::energy(0.5)) == 1);
  CHECK(choose(RankRule::energy(0.500001)) == 2);
  CHECK(choose(RankRule::energy(0.75)) == 2);
  CHECK(choose(RankRule::energy(1)) == 5);
  CHECK(choose(RankRule::custom([](auto e) { return static_cast<index_t>(e.size()) / 2; })) == 3);
  CHECK(RankRule::energy(0.9).choose(std::vector<double>{0, 0, 0}, 3, 0) == 1);
  CHECK(RankRule::energy(0.9).choose({}, 0, 0) == 0);
  CHECK(message_of<ValueError>([&] { choose(RankRule::custom([](auto) { return index_t{7}; })); }) ==
        "the custom rank rule answered 7, expected 1 <= rank <= extent = 6");
  CHECK_THROWS_AS(choose(RankRule::custom([](auto) { return index_t{0}; })), ValueError);
  CHECK(message_of<ValueError>([&] {
          RankRule::energy(0.99).choose(std::vector<double>{8, 4}, 6, 16);
        }) ==
        "energy share 0.99 is out of reach: the 2 leading vectors of 6 that the sketch knows hold 0.75");
}
