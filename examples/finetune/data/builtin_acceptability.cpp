#include "data/builtin_acceptability.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <unordered_set>
#include <utility>

// The order of draws decides what is drawn, so that no two of them may stand in the arguments of one function: the language
// orders lists in braces only.

namespace sparsegrad::finetune {
namespace {

using std::string;
using std::string_view;

/// SplitMix64: the same numbers everywhere, unlike the standard library's distributions.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  /// A number from 0 to n - 1.
  std::size_t below(std::size_t n) {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    z ^= z >> 31U;
    return static_cast<std::size_t>(((z >> 32U) * n) >> 32U);
  }

  bool one_in(std::size_t n) { return below(n) == 0; }
  bool coin() { return one_in(2); }

 private:
  std::uint64_t state_;
};

// ---- Lexicon -------------------------------------------------------------------------------------------------------
// The last `held_out` words of a list occur in dev alone.

template <class Word, std::size_t size>
struct List {
  std::array<Word, size> words;
  std::size_t held_out;
};

template <std::size_t held_out, class Word, class... Words>
constexpr auto make_list(Word first, Words... rest) {
  return List<Word, 1 + sizeof...(Words)>{{first, rest...}, held_out};
}

struct Noun {
  string_view singular, plural;
  string_view of(bool many) const { return many ? plural : singular; }
};

struct Verb {
  string_view base, third, past, participle, ing;
  string_view present(bool many) const { return many ? base : third; }
};

struct Adjective {
  string_view positive, comparative, superlative;
};

enum class Gender { none, male, female };

struct Gendered {
  string_view text;
  Gender gender;
};

constexpr auto male = Gender::male;
constexpr auto female = Gender::female;

constexpr auto people =
    make_list<6>(Noun{"teacher", "teachers"}, Noun{"doctor", "doctors"}, Noun{"farmer", "farmers"},
                 Noun{"pilot", "pilots"}, Noun{"lawyer", "lawyers"}, Noun{"singer", "singers"},
                 Noun{"student", "students"}, Noun{"nurse", "nurses"}, Noun{"driver", "drivers"},
                 Noun{"painter", "painters"}, Noun{"guard", "guards"}, Noun{"dancer", "dancers"},
                 Noun{"clerk", "clerks"}, Noun{"chef", "chefs"}, Noun{"tourist", "tourists"},
                 Noun{"editor", "editors"}, Noun{"senator", "senators"}, Noun{"plumber", "plumbers"},
                 Noun{"soldier", "soldiers"}, Noun{"banker", "bankers"}, Noun{"architect", "architects"},
                 Noun{"librarian", "librarians"}, Noun{"baker", "bakers"}, Noun{"surgeon", "surgeons"},
                 Noun{"detective", "detectives"}, Noun{"gardener", "gardeners"});

constexpr auto gendered_people =
    make_list<6>(Gendered{"the king", male}, Gendered{"the queen", female}, Gendered{"the prince", male},
                 Gendered{"the princess", female}, Gendered{"the waiter", male},
                 Gendered{"the waitress", female}, Gendered{"the monk", male}, Gendered{"the nun", female},
                 Gendered{"the policeman", male}, Gendered{"the policewoman", female},
                 Gendered{"the boy", male}, Gendered{"the girl", female}, Gendered{"the old man", male},
                 Gendered{"the old woman", female}, Gendered{"my uncle", male}, Gendered{"my aunt", female},
                 Gendered{"the duke", male}, Gendered{"the duchess", female}, Gendered{"the groom", male},
                 Gendered{"the bride", female}, Gendered{"my nephew", male}, Gendered{"my niece", female});

constexpr auto names = make_list<6>(
    Gendered{"Peter", male}, Gendered{"Anna", female}, Gendered{"Thomas", male}, Gendered{"Laura", female},
    Gendered{"Oscar", male}, Gendered{"Emma", female}, Gendered{"Henry", male}, Gendered{"Clara", female},
    Gendered{"Victor", male}, Gendered{"Alice", female}, Gendered{"Martin", male}, Gendered{"Nora", female},
    Gendered{"Carl", male}, Gendered{"Helen", female}, Gendered{"Hugo", male}, Gendered{"Ruth", female},
    Gendered{"Simon", male}, Gendered{"Sofia", female}, Gendered{"Walter", male}, Gendered{"Julia", female});

constexpr auto things =
    make_list<6>(Noun{"lamp", "lamps"}, Noun{"letter", "letters"}, Noun{"table", "tables"},
                 Noun{"bottle", "bottles"}, Noun{"picture", "pictures"}, Noun{"hammer", "hammers"},
                 Noun{"chair", "chairs"}, Noun{"ticket", "tickets"}, Noun{"basket", "baskets"},
                 Noun{"carpet", "carpets"}, Noun{"mirror", "mirrors"}, Noun{"clock", "clocks"},
                 Noun{"candle", "candles"}, Noun{"suitcase", "suitcases"}, Noun{"bicycle", "bicycles"},
                 Noun{"guitar", "guitars"}, Noun{"curtain", "curtains"}, Noun{"pencil", "pencils"},
                 Noun{"blanket", "blankets"}, Noun{"camera", "cameras"}, Noun{"ladder", "ladders"},
                 Noun{"violin", "violins"}, Noun{"bracelet", "bracelets"}, Noun{"umbrella", "umbrellas"},
                 Noun{"wallet", "wallets"}, Noun{"kettle", "kettles"});

constexpr auto places = make_list<3>(
    string_view("in the garden"), string_view("near the river"), string_view("behind the station"),
    string_view("at the market"), string_view("beside the church"), string_view("in the kitchen"),
    string_view("at the harbor"), string_view("on the balcony"), string_view("in the library"),
    string_view("next to the bridge"), string_view("in the attic"), string_view("near the lighthouse"),
    string_view("behind the barn"));

constexpr auto habits =
    make_list<2>(string_view("every morning"), string_view("at night"), string_view("all the time"),
                 string_view("during lunch"), string_view("after work"), string_view("on Sundays"),
                 string_view("in winter"), string_view("before dinner"));

constexpr auto prepositions =
    make_list<1>(string_view("near"), string_view("behind"), string_view("beside"), string_view("next to"),
                 string_view("in front of"), string_view("opposite"));

/// Actions of people on things.
constexpr auto handling = make_list<4>(
    Verb{"repair", "repairs", "repaired", "repaired", "repairing"},
    Verb{"buy", "buys", "bought", "bought", "buying"}, Verb{"find", "finds", "found", "found", "finding"},
    Verb{"hide", "hides", "hid", "hidden", "hiding"},
    Verb{"clean", "cleans", "cleaned", "cleaned", "cleaning"},
    Verb{"sell", "sells", "sold", "sold", "selling"},
    Verb{"carry", "carries", "carried", "carried", "carrying"},
    Verb{"drop", "drops", "dropped", "dropped", "dropping"}, Verb{"lose", "loses", "lost", "lost", "losing"},
    Verb{"steal", "steals", "stole", "stolen", "stealing"},
    Verb{"paint", "paints", "painted", "painted", "painting"},
    Verb{"move", "moves", "moved", "moved", "moving"},
    Verb{"examine", "examines", "examined", "examined", "examining"},
    Verb{"wrap", "wraps", "wrapped", "wrapped", "wrapping"},
    Verb{"borrow", "borrows", "borrowed", "borrowed", "borrowing"},
    Verb{"polish", "polishes", "polished", "polished", "polishing"},
    Verb{"inspect", "inspects", "inspected", "inspected", "inspecting"},
    Verb{"measure", "measures", "measured", "measured", "measuring"});

/// The same with three different forms.
constexpr auto irregular = make_list<2>(
    Verb{"hide", "hides", "hid", "hidden", "hiding"}, Verb{"steal", "steals", "stole", "stolen", "stealing"},
    Verb{"take", "takes", "took", "taken", "taking"}, Verb{"draw", "draws", "drew", "drawn", "drawing"},
    Verb{"choose", "chooses", "chose", "chosen", "choosing"}, Verb{"see", "sees", "saw", "seen", "seeing"},
    Verb{"forget", "forgets", "forgot", "forgotten", "forgetting"},
    Verb{"throw", "throws", "threw", "thrown", "throwing"},
    Verb{"shake", "shakes", "shook", "shaken", "shaking"},
    Verb{"break", "breaks", "broke", "broken", "breaking"});

/// Verbs that need an object.
constexpr auto needing_object =
    make_list<2>(Verb{"damage", "damages", "damaged", "damaged", "damaging"},
                 Verb{"destroy", "destroys", "destroyed", "destroyed", "destroying"},
                 Verb{"fix", "fixes", "fixed", "fixed", "fixing"},
                 Verb{"purchase", "purchases", "purchased", "purchased", "purchasing"},
                 Verb{"grab", "grabs", "grabbed", "grabbed", "grabbing"},
                 Verb{"fetch", "fetches", "fetched", "fetched", "fetching"},
                 Verb{"discard", "discards", "discarded", "discarded", "discarding"},
                 Verb{"acquire", "acquires", "acquired", "acquired", "acquiring"});

/// Verbs that take none.
constexpr auto intransitive =
    make_list<3>(Verb{"sleep", "sleeps", "slept", "slept", "sleeping"},
                 Verb{"laugh", "laughs", "laughed", "laughed", "laughing"},
                 Verb{"arrive", "arrives", "arrived", "arrived", "arriving"},
                 Verb{"sneeze", "sneezes", "sneezed", "sneezed", "sneezing"},
                 Verb{"smile", "smiles", "smiled", "smiled", "smiling"},
                 Verb{"disappear", "disappears", "disappeared", "disappeared", "disappearing"},
                 Verb{"yawn", "yawns", "yawned", "yawned", "yawning"},
                 Verb{"cough", "coughs", "coughed", "coughed", "coughing"},
                 Verb{"snore", "snores", "snored", "snored", "snoring"},
                 Verb{"faint", "faints", "fainted", "fainted", "fainting"},
                 Verb{"wait", "waits", "waited", "waited", "waiting"},
                 Verb{"shiver", "shivers", "shivered", "shivered", "shivering"},
                 Verb{"vanish", "vanishes", "vanished", "vanished", "vanishing"},
                 Verb{"giggle", "giggles", "giggled", "giggled", "giggling"});

/// Actions of people on people.
constexpr auto social = make_list<3>(Verb{"admire", "admires", "admired", "admired", "admiring"},
                                     Verb{"help", "helps", "helped", "helped", "helping"},
                                     Verb{"follow", "follows", "followed", "followed", "following"},
                                     Verb{"visit", "visits", "visited", "visited", "visiting"},
                                     Verb{"thank", "thanks", "thanked", "thanked", "thanking"},
                                     Verb{"trust", "trusts", "trusted", "trusted", "trusting"},
                                     Verb{"invite", "invites", "invited", "invited", "inviting"},
                                     Verb{"remember", "remembers", "remembered", "remembered", "remembering"},
                                     Verb{"avoid", "avoids", "avoided", "avoided", "avoiding"},
                                     Verb{"respect", "respects", "respected", "respected", "respecting"},
                                     Verb{"praise", "praises", "praised", "praised", "praising"},
                                     Verb{"ignore", "ignores", "ignored", "ignored", "ignoring"},
                                     Verb{"hire", "hires", "hired", "hired", "hiring"});

/// What people do to themselves.
constexpr auto reflexive_past = make_list<2>(
    string_view("admired"), string_view("blamed"), string_view("criticized"), string_view("introduced"),
    string_view("defended"), string_view("protected"), string_view("encouraged"), string_view("hurt"),
    string_view("congratulated"), string_view("photographed"));

constexpr auto qualities =
    make_list<2>(string_view("old"), string_view("heavy"), string_view("expensive"), string_view("dusty"),
                 string_view("new"), string_view("small"), string_view("beautiful"), string_view("useless"),
                 string_view("wet"), string_view("ugly"), string_view("fragile"), string_view("rusty"));

constexpr auto gradable =
    make_list<2>(Adjective{"tall", "taller", "tallest"}, Adjective{"old", "older", "oldest"},
                 Adjective{"young", "younger", "youngest"}, Adjective{"strong", "stronger", "strongest"},
                 Adjective{"fast", "faster", "fastest"}, Adjective{"rich", "richer", "richest"},
                 Adjective{"kind", "kinder", "kindest"}, Adjective{"weak", "weaker", "weakest"},
                 Adjective{"brave", "braver", "bravest"}, Adjective{"thin", "thinner", "thinnest"});

constexpr auto long_gradable = make_list<1>(
    string_view("expensive"), string_view("beautiful"), string_view("useful"), string_view("dangerous"),
    string_view("comfortable"), string_view("popular"), string_view("elegant"));

constexpr auto manners =
    make_list<1>(string_view("quickly"), string_view("carefully"), string_view("secretly"),
                 string_view("slowly"), string_view("gently"), string_view("hastily"));

constexpr auto bridge_base = make_list<1>(string_view("say"), string_view("think"), string_view("claim"),
                                          string_view("believe"), string_view("suspect"));

constexpr auto topics =
    make_list<2>(string_view("the plan"), string_view("the problem"), string_view("the rule"),
                 string_view("the accident"), string_view("the decision"), string_view("the result"),
                 string_view("the discovery"), string_view("the delay"));

// ---- Building ------------------------------------------------------------------------------------------------------

struct NounPhrase {
  string text;
  bool many = false;
  Gender gender = Gender::none;
};

/// An acceptable sentence and an unacceptable one that differs from it in one respect.
struct Pair {
  string good;
  string bad;
  bool question = false;
};

string join(std::initializer_list<string_view> words) {
  string out;
  for (const string_view word : words) {
    if (word.empty()) continue;
    if (!out.empty()) out += ' ';
    out += word;
  }
  return out;
}

string_view reflexive_of(Gender gender) {
  return gender == male ? "himself" : "herself";
}
string_view subject_pronoun(Gender gender) {
  return gender == male ? "he" : "she";
}
string_view possessive_of(Gender gender) {
  return gender == male ? "his" : "her";
}
Gender other(Gender gender) {
  return gender == male ? female : male;
}

string with_article(string_view noun_phrase) {
  const bool vowel = string_view("aeiou").find(noun_phrase.front()) != string_view::npos &&
                     !noun_phrase.starts_with("use");  // "a useless one"
  return join({vowel ? "an" : "a", noun_phrase});
}

/// Draws words; in dev two words in five are held-out ones.
class Maker {
 public:
  Maker(Split split, std::uint64_t seed) : random(seed), split_(split) {}

  template <class Word, std::size_t size>
  const Word& pick(const List<Word, size>& list) {
    const std::size_t shared = size - list.held_out;
    if (split_ == Split::dev && random.below(5) < 2) return list.words[shared + random.below(list.held_out)];
    return list.words[random.below(shared)];
  }

  /// One of a few words of grammar, all of them in both splits.
  string_view one_of(std::initializer_list<string_view> words) {
    return words.begin()[random.below(words.size())];
  }

  NounPhrase person(bool many) { return {join({"the", pick(people).of(many)}), many, Gender::none}; }
  NounPhrase gendered() {
    const Gendered& word = random.coin() ? pick(names) : pick(gendered_people);
    return {string(word.text), false, word.gender};
  }
  NounPhrase gendered(Gender gender) {
    for (;;) {
      NounPhrase phrase = gendered();
      if (phrase.gender == gender) return phrase;
    }
  }
  /// Somebody, one person.
  NounPhrase somebody() { return random.one_in(3) ? person(false) : gendered(); }
  /// Somebody else than `first`.
  NounPhrase somebody_but(const NounPhrase& first) {
    for (;;) {
      NounPhrase phrase = somebody();
      if (phrase.text != first.text) return phrase;
    }
  }
  /// One or more.
  NounPhrase anybody() { return random.one_in(3) ? person(true) : somebody(); }

  /// "the lamp".
  string plain_thing(bool many = false) { return join({"the", pick(things).of(many)}); }
  /// "the lamp", but not `first`.
  string plain_thing_but(const string& first) {
    for (;;) {
      string thing = plain_thing();
      if (thing != first) return thing;
    }
  }
  /// "the lamp", "the old lamp".
  string thing(bool many = false) {
    const string_view noun = pick(things).of(many);
    return random.one_in(3) ? join({"the", pick(qualities), noun}) : join({"the", noun});
  }
  string_view maybe_place() { return random.one_in(3) ? pick(places) : string_view(); }

  Random random;

 private:
  Split split_;
};

// ---- Phenomena -----------------------------------------------------------------------------------------------------

Pair agreement(Maker& m) {
  const bool many = m.random.coin();
  switch (m.random.below(3)) {
    case 0: {
      const NounPhrase subject = m.person(many);
      const Verb& verb = m.pick(intransitive);
      const string_view habit = m.pick(habits);
      return {join({subject.text, verb.present(many), habit}),
              join({subject.text, verb.present(!many), habit})};
    }
    case 1: {
      const string subject = m.plain_thing(many);
      const string_view quality = m.pick(qualities);
      const bool past = m.random.coin();
      const auto be = [&](bool plural) -> string_view {
        return past ? (plural ? "were" : "was") : (plural ? "are" : "is");
      };
      const string_view degree = m.one_of({"very", "rather", "too", "really"});
      return {join({subject, be(many), degree, quality}), join({subject, be(!many), degree, quality})};
    }
    default: {
      const NounPhrase subject = m.person(many);
      const string object = m.thing(m.random.coin());
      const Verb& verb = m.pick(handling);
      const auto have = [](bool plural) -> string_view { return plural ? "have" : "has"; };
      return {join({subject.text, have(many), verb.participle, object}),
              join({subject.text, have(!many), verb.participle, object})};
    }
  }
}

Pair agreement_across_phrase(Maker& m) {
  const bool many = m.random.coin();
  const bool attractor = m.random.below(10) < 7 ? !many : many;  // mostly the other number
  if (m.random.coin()) {
    const string subject =
        join({m.plain_thing(many), m.pick(prepositions), "the", m.pick(things).of(attractor)});
    const string_view quality = m.pick(qualities);
    const bool past = m.random.coin();
    const auto be = [&](bool plural) -> string_view {
      return past ? (plural ? "were" : "was") : (plural ? "are" : "is");
    };
    return {join({subject, be(many), quality}), join({subject, be(!many), quality})};
  }
  const string subject =
      join({m.person(many).text, m.pick(prepositions), "the", m.pick(things).of(attractor)});
  const Verb& verb = m.pick(intransitive);
  const string_view habit = m.pick(habits);
  return {join({subject, verb.present(many), habit}), join({subject, verb.present(!many), habit})};
}

Pair agreement_across_clause(Maker& m) {
  const bool many = m.random.coin();
  const NounPhrase head = m.person(many);
  const NounPhrase inner = m.person(m.random.below(10) < 7 ? !many : many);
  const Verb& inner_verb = m.pick(social);
  const Verb& verb = m.pick(intransitive);
  const string_view habit = m.pick(habits);
  const bool subject_clause = m.random.coin();
  const auto sentence = [&](bool inner_right, bool main_right) {
    const bool inner_many = (subject_clause ? many : inner.many) == inner_right;
    const string_view inner_form = inner_verb.present(inner_many);
    const string clause = subject_clause ? join({inner_form, inner.text}) : join({inner.text, inner_form});
    return join({head.text, "who", clause, verb.present(many == main_right), habit});
  };
  const bool spoil_inner = m.random.one_in(3);
  return {sentence(true, true), sentence(!spoil_inner, spoil_inner)};
}

Pair determiner(Maker& m) {
  const bool many = m.random.coin();
  const string_view word = many ? m.one_of({"these", "those", "many", "several", "two", "few", "both"})
                                : m.one_of({"this", "that", "a", "every", "each", "one"});
  const Noun& noun = m.pick(things);
  const string_view quality = m.random.coin() ? m.pick(qualities) : string_view();
  const string start = join({m.anybody().text, m.pick(handling).past});
  const string_view place = m.maybe_place();
  const auto sentence = [&](bool plural) {
    const string phrase = join({quality, noun.of(plural)});
    return join({start, word == "a" ? with_article(phrase) : join({word, phrase}), place});
  };
  return {sentence(many), sentence(!many)};
}

Pair reflexive(Maker& m) {
  const string_view verb = m.pick(reflexive_past);
  const string_view place = m.maybe_place();
  switch (m.random.below(5)) {
    case 0: {
      const NounPhrase subject = m.gendered();
      const string start = join({subject.text, verb});
      return {join({start, reflexive_of(subject.gender), place}),
              join({start, reflexive_of(other(subject.gender)), place})};
    }
    case 1: {
      const bool many = m.random.coin();
      const NounPhrase subject = many ? m.person(true) : m.gendered();
      const string_view plural = "themselves";
      const string_view singular = many ? m.one_of({"himself", "herself"}) : reflexive_of(subject.gender);
      const string start = join({subject.text, verb});
      return {join({start, many ? plural : singular, place}), join({start, many ? singular : plural, place})};
    }
    case 2: {
      const NounPhrase outer = m.gendered();
      const NounPhrase inner = m.gendered(other(outer.gender));
      const string start =
          join({outer.text, m.one_of({"said", "thought", "knew", "heard"}), "that", inner.text, verb});
      return {join({start, reflexive_of(inner.gender), place}),
              join({start, reflexive_of(outer.gender), place})};
    }
    case 3: {
      const NounPhrase subject = m.gendered();
      const string_view self = reflexive_of(subject.gender);
      return {join({subject.text, verb, self, place}), join({self, verb, subject.text, place})};
    }
    default: {
      const Gendered& head = m.pick(gendered_people);
      const NounPhrase near = m.gendered(other(head.gender));
      const string start = join({head.text, "who", m.pick(social).past, near.text, verb});
      return {join({start, reflexive_of(head.gender)}), join({start, reflexive_of(near.gender)})};
    }
  }
}

constexpr auto telling =
    make_list<1>(string_view("explained"), string_view("described"), string_view("mentioned"),
                 string_view("reported"), string_view("announced"), string_view("demonstrated"));
constexpr auto handing = make_list<1>(string_view("gave"), string_view("sent"), string_view("showed"),
                                      string_view("offered"), string_view("handed"), string_view("lent"));
constexpr auto vessels =
    make_list<1>(string_view("the bottle"), string_view("the bucket"), string_view("the jar"),
                 string_view("the basin"), string_view("the glass"), string_view("the barrel"));
constexpr auto liquids = make_list<1>(string_view("water"), string_view("milk"), string_view("juice"),
                                      string_view("oil"), string_view("wine"), string_view("vinegar"));

Pair arguments(Maker& m) {
  const NounPhrase subject = m.anybody();
  const string_view place = m.maybe_place();
  switch (m.random.below(5)) {
    case 0: {
      const Verb& verb = m.pick(intransitive);
      const string_view where = m.pick(places);
      return {join({subject.text, verb.past, where}), join({subject.text, verb.past, m.thing(), where})};
    }
    case 1: {
      const Verb& verb = m.pick(needing_object);
      const string_view when = m.one_of({"yesterday", "last week", "this morning", ""});
      return {join({subject.text, verb.past, m.thing(m.random.coin()), when}),
              join({subject.text, verb.past, when})};
    }
    case 2: {
      const NounPhrase recipient = m.somebody_but(subject);
      const string_view topic = m.pick(topics);
      const string_view teller = m.pick(telling);
      const string bad = join({subject.text, teller, recipient.text, topic, place});
      if (m.random.coin()) return {join({subject.text, teller, topic, "to", recipient.text, place}), bad};
      return {join({subject.text, m.pick(handing), recipient.text, m.thing(), place}), bad};
    }
    case 3: {
      const string_view vessel = m.pick(vessels);
      const string_view liquid = m.pick(liquids);
      const string into = join({liquid, "into", vessel});
      const string with = join({vessel, "with", liquid});
      const bool pour = m.random.coin();
      const string_view verb = pour ? m.one_of({"poured", "spilled"}) : string_view("filled");
      return {join({subject.text, verb, pour ? into : with, place}),
              join({subject.text, verb, pour ? with : into, place})};
    }
    default: {
      const string object = m.thing();
      const string by = join({"by", subject.text, place});
      return {join({object, "was", m.pick(needing_object).participle, by}),
              join({object, "was", m.pick(intransitive).participle, by})};
    }
  }
}

Pair filler_and_gap(Maker& m) {
  const NounPhrase subject = m.anybody();
  const NounPhrase second = m.somebody_but(subject);
  const Verb& verb = m.pick(handling);
  const string object = m.thing();
  switch (m.random.below(7)) {
    case 0: {
      const string_view place = m.maybe_place();
      const string start = join({"what did", subject.text, verb.base});
      return {join({start, place}), join({start, object, place}), true};
    }
    case 1: {
      const NounPhrase third = m.somebody_but(second);
      const string start =
          join({"who did", subject.text, m.pick(bridge_base), "that", second.text, m.pick(social).past});
      return {start, join({start, third.text}), true};
    }
    case 2: {
      const string_view base = m.pick(intransitive).base;
      const string_view link = m.one_of({"because", "before", "after", "while"});
      return {join({"did", subject.text, base, link, second.text, verb.past, object}),
              join({"what did", subject.text, base, link, second.text, verb.past}), true};
    }
    case 3: {
      const string inner = join({m.pick(social).base, m.person(false).text, "who", verb.past});
      return {join({"did", subject.text, inner, object}), join({"what did", subject.text, inner}), true};
    }
    case 4: {
      const string one = m.plain_thing();
      const string more = m.plain_thing_but(one);
      const bool first = m.random.coin();
      const string start = join({subject.text, verb.base});
      return {join({"did", start, one, "and", more}),
              join({"what did", start, first ? "and" : one, first ? string_view(one) : string_view("and")}),
              true};
    }
    case 5: {
      const string start = join({"who did", subject.text, m.pick(bridge_base)});
      return {join({start, verb.past, object}), join({start, "that", verb.past, object}), true};
    }
    default: {
      const string start = join({m.plain_thing(), "that", subject.text, verb.past});
      const string end = join({"is", m.one_of({"very", "rather", "too"}), m.pick(qualities)});
      return {join({start, end}), join({start, "it", end})};
    }
  }
}

Pair negative_polarity(Maker& m) {
  const Verb& verb = m.pick(handling);
  const Noun& noun = m.pick(people);
  const NounPhrase subject = m.somebody();
  const string object = m.thing();
  switch (m.random.below(5)) {
    case 0: {
      const string end = join({noun.singular, "has ever", verb.participle, object});
      return {join({"no", end}), join({m.one_of({"the", "some", "this"}), end})};
    }
    case 1: {
      const string end = join({"any", m.pick(things).plural, m.maybe_place()});
      return {join({subject.text, "did not", verb.base, end}), join({subject.text, verb.past, end})};
    }
    case 2: {
      const Verb& act = m.pick(intransitive);
      return {join({subject.text, "did not", act.base, "at all"}), join({subject.text, act.past, "at all"})};
    }
    case 3: {
      const string end = join({verb.past, m.one_of({"anything", "anything at all"}), m.maybe_place()});
      return {join({m.one_of({"nobody", "hardly anyone"}), end}), join({subject.text, end})};
    }
    default: {
      // The negation must stand above the word that it allows, not inside a relative clause.
      const string act = join({m.pick(social).past, subject.text});
      const string end = join({"has ever", verb.participle, object});
      return {join({"no", noun.singular, "who", act, end}),
              join({"the", noun.singular, "who did not", "meet", subject.text, end})};
    }
  }
}

Pair verb_form(Maker& m) {
  const NounPhrase subject = m.somebody();
  const Verb& verb = m.pick(irregular);
  const string object = m.thing(m.random.coin());
  const string_view place = m.maybe_place();
  const auto pair = [&](std::initializer_list<string_view> auxiliaries, string_view right,
                        std::initializer_list<string_view> wrong) {
    const string_view auxiliary = m.one_of(auxiliaries);
    return Pair{join({subject.text, auxiliary, right, object, place}),
                join({subject.text, auxiliary, m.one_of(wrong), object, place})};
  };
  switch (m.random.below(6)) {
    case 0:
      return pair({"has", "had"}, verb.participle, {verb.past, verb.base});
    case 1:
      return pair({"did not"}, verb.base, {verb.past, verb.third});
    case 2:
      return pair({"will", "must", "can", "should"}, verb.base, {verb.past, verb.third, verb.participle});
    case 3:
      return pair({"is", "was"}, verb.ing, {verb.base, verb.third});
    case 4: {
      const string start = join({m.thing(), "was"});
      const string end = join({"by", subject.text, place});
      return {join({start, verb.participle, end}),
              join({start, m.random.coin() ? verb.past : verb.base, end})};
    }
    default: {
      const string start = join({"did", subject.text});
      return {join({start, verb.base, object, place}), join({start, verb.past, object, place}), true};
    }
  }
}

Pair word_order(Maker& m) {
  const NounPhrase subject = m.anybody();
  const Verb& verb = m.pick(handling);
  const string_view noun = m.pick(things).singular;
  const string object = join({"the", noun});
  const string_view quality = m.pick(qualities);
  const string_view place = m.maybe_place();
  switch (m.random.below(8)) {
    case 0: {
      // As a subject: an adjective after an object may be a predicate of it.
      const string end = join({"was", m.pick(places)});
      return {join({"the", quality, noun, end}), join({"the", noun, quality, end})};
    }
    case 1:
      return {join({subject.text, verb.past, object, place}), join({subject.text, object, verb.past, place})};
    case 2: {
      const string_view manner = m.pick(manners);
      return {join({subject.text, manner, verb.past, object, place}),
              join({subject.text, verb.past, manner, object, place})};
    }
    case 3:
      return {join({subject.text, verb.past, object, place}),
              join({subject.text, verb.past, noun, "the", place})};
    case 4: {
      const string_view question = m.one_of({"why", "when", "where", "how"});
      return {join({question, "did", subject.text, verb.base, object}),
              join({question, subject.text, "did", verb.base, object}), true};
    }
    case 5: {
      const NounPhrase one = m.somebody();
      return {join({one.text, "has been", verb.ing, object, place}),
              join({one.text, "been has", verb.ing, object, place})};
    }
    case 6: {
      const string where(m.pick(places));
      const std::size_t article = where.find(" the ");
      const string turned = join({where.substr(article + 1), where.substr(0, article)});
      return {join({subject.text, verb.past, object, where}),
              join({subject.text, verb.past, object, turned})};
    }
    default:
      return {join({subject.text, "did not", verb.base, object, place}),
              m.random.coin() ? join({subject.text, "not did", verb.base, object, place})
                              : join({subject.text, verb.past, "not", object, place})};
  }
}

// The owner can only be the subject.
constexpr auto idioms = make_list<3>(
    std::pair<string_view, string_view>{"held", "breath"},
    std::pair<string_view, string_view>{"lost", "temper"}, std::pair<string_view, string_view>{"did", "best"},
    std::pair<string_view, string_view>{"made up", "mind"},
    std::pair<string_view, string_view>{"shrugged", "shoulders"},
    std::pair<string_view, string_view>{"lost", "way"}, std::pair<string_view, string_view>{"kept", "cool"},
    std::pair<string_view, string_view>{"lost", "balance"},
    std::pair<string_view, string_view>{"craned", "neck"},
    std::pair<string_view, string_view>{"gritted", "teeth"});

Pair bound_pronoun(Maker& m) {
  const NounPhrase subject = m.gendered();
  const Gender right = subject.gender;
  switch (m.random.below(3)) {
    case 0: {
      const auto& [verb, noun] = m.pick(idioms);
      const string_view place = m.random.coin() ? m.pick(places) : string_view();
      return {join({subject.text, verb, possessive_of(right), noun, place}),
              join({subject.text, verb, possessive_of(other(right)), noun, place})};
    }
    case 1: {
      const string start = join({subject.text, m.pick(handling).past});
      const string end = join({"own", m.pick(things).of(m.random.coin()), m.maybe_place()});
      return {join({start, possessive_of(right), end}), join({start, possessive_of(other(right)), end})};
    }
    default: {
      const Verb& verb = m.pick(handling);
      const string object = m.thing();
      struct Tag {
        string clause;
        string_view auxiliary, wrong;
      };
      const std::array<Tag, 4> tags{{{join({"has", verb.participle, object}), "hasn't", "didn't"},
                                     {join({verb.past, object}), "didn't", "isn't"},
                                     {join({"will", verb.base, object}), "won't", "hasn't"},
                                     {join({"is", verb.ing, object}), "isn't", "doesn't"}}};
      const Tag& tag = tags[m.random.below(tags.size())];
      const string start = join({subject.text, tag.clause}) + ",";
      const bool wrong_pronoun = m.random.coin();
      return {join({start, tag.auxiliary, subject_pronoun(right)}),
              join({start, wrong_pronoun ? tag.auxiliary : tag.wrong,
                    subject_pronoun(wrong_pronoun ? other(right) : right)}),
              true};
    }
  }
}

constexpr auto clause_verbs =
    make_list<1>(string_view("said"), string_view("claimed"), string_view("noticed"), string_view("realized"),
                 string_view("concluded"), string_view("remarked"));
constexpr auto causing_verbs = make_list<2>(
    string_view("forced"), string_view("encouraged"), string_view("trained"), string_view("tempted"),
    string_view("invited"), string_view("helped"), string_view("compelled"), string_view("enabled"));
constexpr auto ing_verbs = make_list<2>(
    string_view("enjoyed"), string_view("avoided"), string_view("imagined"), string_view("considered"),
    string_view("kept"), string_view("denied"), string_view("postponed"), string_view("resented"));
constexpr auto to_verbs =
    make_list<2>(string_view("decided"), string_view("refused"), string_view("failed"), string_view("agreed"),
                 string_view("wanted"), string_view("hoped"), string_view("promised"),
                 string_view("volunteered"), string_view("threatened"));
constexpr auto prepositional_verbs = make_list<2>(
    std::pair<string_view, string_view>{"relied", "on"}, std::pair<string_view, string_view>{"waited", "for"},
    std::pair<string_view, string_view>{"listened", "to"},
    std::pair<string_view, string_view>{"laughed", "at"}, std::pair<string_view, string_view>{"looked", "at"},
    std::pair<string_view, string_view>{"depended", "on"},
    std::pair<string_view, string_view>{"objected", "to"},
    std::pair<string_view, string_view>{"stared", "at"});

Pair subcategorization(Maker& m) {
  const NounPhrase subject = m.anybody();
  const NounPhrase second = m.somebody_but(subject);
  const Verb& verb = m.pick(handling);
  const string object = m.thing();
  switch (m.random.below(5)) {
    case 0: {
      const string start = join({subject.text, m.pick(clause_verbs)});
      return {join({start, "that", second.text, "had", verb.participle, object}),
              join({start, second.text, "to", verb.base, object})};
    }
    case 1: {
      const string start = join({subject.text, m.pick(causing_verbs)});
      return {join({start, second.text, "to", verb.base, object}),
              join({start, "that", second.text, verb.past, object})};
    }
    case 2: {
      const string start = join({subject.text, m.pick(ing_verbs)});
      return {join({start, verb.ing, object}), join({start, "to", verb.base, object})};
    }
    case 3: {
      const string start = join({subject.text, m.pick(to_verbs)});
      return {join({start, "to", verb.base, object}), join({start, verb.ing, object})};
    }
    default: {
      const auto& [relied, on] = m.pick(prepositional_verbs);
      const string_view place = m.maybe_place();
      return {join({subject.text, relied, on, second.text, place}),
              join({subject.text, relied, second.text, place})};
    }
  }
}

Pair comparison(Maker& m) {
  const NounPhrase first = m.somebody();
  const NounPhrase second = m.somebody_but(first);
  const Adjective& adjective = m.pick(gradable);
  const string_view be = m.one_of({"is", "was"});
  switch (m.random.below(4)) {
    case 0: {
      const string start = join({first.text, be});
      const string good = join({start, adjective.comparative, "than", second.text});
      switch (m.random.below(3)) {
        case 0:
          return {good, join({start, "more", adjective.comparative, "than", second.text})};
        case 1:
          return {good, join({start, adjective.positive, "than", second.text})};
        default:
          return {good, join({start, adjective.comparative, "as", second.text})};
      }
    }
    case 1: {
      const string start = join({first.text, be});
      return {join({start, "as", adjective.positive, "as", second.text}),
              m.random.coin() ? join({start, "as", adjective.comparative, "as", second.text})
                              : join({start, "as", adjective.positive, "than", second.text})};
    }
    case 2: {
      const string start = join({first.text, be, "the"});
      const string end = join({m.one_of({"person", "guest", "visitor", "neighbor"}), m.pick(places)});
      return {join({start, adjective.superlative, end}),
              m.random.coin() ? join({start, "most", adjective.superlative, end})
                              : join({start, adjective.comparative, "of", end})};
    }
    default: {
      const string object = m.plain_thing();
      const string start = join({object, be});
      const string_view quality = m.pick(long_gradable);
      const string end = join({"than", m.plain_thing_but(object)});
      return {join({start, "more", quality, end}),
              m.random.coin() ? join({start, quality, end}) : join({start, "most", quality, end})};
    }
  }
}

Pair pronoun_case(Maker& m) {
  struct Pronoun {
    string_view subject, object;
    bool many;
  };
  constexpr std::array<Pronoun, 5> pronouns{{{"he", "him", false},
                                             {"she", "her", false},
                                             {"they", "them", true},
                                             {"we", "us", true},
                                             {"I", "me", true}}};
  const Pronoun& pronoun = pronouns[m.random.below(pronouns.size())];
  const Verb& verb = m.pick(social);
  const NounPhrase somebody = m.anybody();
  switch (m.random.below(4)) {
    case 0: {
      const bool past = m.random.coin();
      const string end =
          join({past ? verb.past : verb.present(pronoun.many), somebody.text, m.maybe_place()});
      return {join({pronoun.subject, end}), join({pronoun.object, end})};
    }
    case 1: {
      const string start = join({somebody.text, verb.past});
      const string_view place = m.maybe_place();
      return {join({start, pronoun.object, place}), join({start, pronoun.subject, place})};
    }
    case 2: {
      const auto& [relied, on] = m.pick(prepositional_verbs);
      const string start = join({somebody.text, relied, on});
      const string_view place = m.maybe_place();
      return {join({start, pronoun.object, place}), join({start, pronoun.subject, place})};
    }
    default: {
      constexpr std::array<std::array<string_view, 2>, 4> owners{
          {{"my", "mine"}, {"your", "yours"}, {"our", "ours"}, {"their", "theirs"}}};
      const auto& [before, alone] = owners[m.random.below(owners.size())];
      const string_view noun = m.pick(things).singular;
      if (m.random.coin()) {
        const string start = join({somebody.text, m.pick(handling).past});
        const string_view place = m.maybe_place();
        return {join({start, before, noun, place}), join({start, alone, noun, place})};
      }
      const string start = join({"the", noun, m.pick(places), m.one_of({"is", "was"})});
      return {join({start, alone}), join({start, before})};
    }
  }
}

Pair tense(Maker& m) {
  const NounPhrase subject = m.somebody();
  const Verb& verb = m.pick(handling);
  const string object = m.thing(m.random.coin());
  const string_view past = m.one_of({"yesterday", "last week", "two days ago", "last summer"});
  const string_view future = m.one_of({"tomorrow", "next week", "next summer", "in two days"});
  switch (m.random.below(3)) {
    case 0: {
      const string start = join({subject.text, "will", verb.base, object});
      return {join({start, future}), join({start, past})};
    }
    case 1: {
      const string start = join({subject.text, verb.past, object});
      const string_view later =
          future == "in two days" ? string_view("tomorrow") : future;  // "in two days" may be a duration
      return {join({start, past}), join({start, later})};
    }
    default: {
      const string start = join({subject.text, "is", verb.ing, object});
      return {join({start, m.one_of({"right now", "at the moment", "today"})}), join({start, past})};
    }
  }
}

struct Phenomenon {
  string_view name;
  Pair (*make)(Maker&);
};

constexpr std::array<Phenomenon, 15> phenomena{{{"agreement", agreement},
                                                {"agreement_across_phrase", agreement_across_phrase},
                                                {"agreement_across_clause", agreement_across_clause},
                                                {"determiner", determiner},
                                                {"reflexive", reflexive},
                                                {"arguments", arguments},
                                                {"filler_and_gap", filler_and_gap},
                                                {"negative_polarity", negative_polarity},
                                                {"verb_form", verb_form},
                                                {"word_order", word_order},
                                                {"bound_pronoun", bound_pronoun},
                                                {"subcategorization", subcategorization},
                                                {"comparison", comparison},
                                                {"pronoun_case", pronoun_case},
                                                {"tense", tense}}};

string finished(string text, bool question) {
  if (text.front() >= 'a' && text.front() <= 'z') text.front() = static_cast<char>(text.front() - 'a' + 'A');
  return text + (question ? '?' : '.');
}

/// `size` sentences, phenomenon after phenomenon, none of whose pairs has a sentence in `taken`, which grows by them.
std::vector<AcceptabilitySentence> make_sentences(Split split, std::size_t size, std::uint64_t seed,
                                                  std::unordered_set<string>& taken) {
  Maker maker(split, seed);
  std::vector<AcceptabilitySentence> out;
  for (std::size_t turn = 0; out.size() < size; turn = (turn + 1) % phenomena.size()) {
    const Phenomenon& phenomenon = phenomena[turn];
    const Pair pair = phenomenon.make(maker);
    const string good = finished(pair.good, pair.question);
    const string bad = finished(pair.bad, pair.question);
    if (taken.contains(good) || taken.contains(bad)) continue;
    taken.insert(good);
    taken.insert(bad);
    // Both sentences, the acceptable one, or the other one alone: 9 to 5, two in three acceptable.
    const std::size_t lot = maker.random.below(20);
    if (lot < 18) out.push_back({good, true, phenomenon.name});
    if (lot < 8 || lot >= 18) out.push_back({bad, false, phenomenon.name});
  }
  out.resize(size);
  for (std::size_t i = out.size(); i > 1; --i)
    std::swap(out[i - 1], out[maker.random.below(i)]);
  return out;
}

}  // namespace

std::vector<AcceptabilitySentence> builtin_acceptability_sentences(Split split) {
  std::unordered_set<string> taken;
  std::vector<AcceptabilitySentence> train = make_sentences(Split::train, 4000, 1, taken);
  if (split == Split::train) return train;
  return make_sentences(Split::dev, 600, 2, taken);
}

Dataset builtin_acceptability(Split split) {
  Dataset out;
  out.name = "acceptability/" + string(to_string(split));
  for (AcceptabilitySentence& sentence : builtin_acceptability_sentences(split)) {
    out.examples.push_back({std::move(sentence.text), std::nullopt, sentence.acceptable ? 1.0F : 0.0F});
  }
  return out;
}

}  // namespace sparsegrad::finetune
