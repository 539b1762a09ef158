#include "data/builtin_acceptability.hpp"

#include <doctest/doctest.h>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace sparsegrad::finetune;

namespace {

std::set<std::string> words_of(const std::string& sentence) {
  std::set<std::string> words;
  std::string word;
  for (const char c : sentence + " ") {
    if (std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '\'') {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!word.empty()) {
      words.insert(word);
      word.clear();
    }
  }
  return words;
}

std::uint64_t hash_of(const std::vector<AcceptabilitySentence>& sentences) {
  std::uint64_t state = 0xCBF29CE484222325U;
  for (const AcceptabilitySentence& sentence : sentences) {
    for (const char c : sentence.text + (sentence.acceptable ? "1" : "0")) {
      state = (state ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
    }
  }
  return state;
}

}  // namespace

TEST_CASE("the built-in set is the same one everywhere") {
  CHECK(hash_of(builtin_acceptability_sentences(Split::train)) == 16974795394380902957U);
  CHECK(hash_of(builtin_acceptability_sentences(Split::dev)) == 4341062466522073089U);
}

TEST_CASE("train and dev are apart") {
  std::set<std::string> train;
  for (const auto& sentence : builtin_acceptability_sentences(Split::train)) {
    CHECK_MESSAGE(train.insert(sentence.text).second, "twice: " << sentence.text);
  }
  std::set<std::string> dev;
  for (const auto& sentence : builtin_acceptability_sentences(Split::dev)) {
    CHECK_MESSAGE(dev.insert(sentence.text).second, "twice: " << sentence.text);
    CHECK_MESSAGE(!train.contains(sentence.text), "in both: " << sentence.text);
  }
  CHECK(train.size() == 4000);
  CHECK(dev.size() == 600);
}

TEST_CASE("each phenomenon is in both splits, balanced, with words of dev's own") {
  struct Count {
    int acceptable = 0;
    int all = 0;
    int with_new_word = 0;
  };
  std::map<Split, std::map<std::string, Count>> counts;
  std::set<std::string> train_words;
  for (const Split split : {Split::train, Split::dev}) {
    for (const auto& sentence : builtin_acceptability_sentences(split)) {
      Count& count = counts[split][std::string(sentence.phenomenon)];
      ++count.all;
      count.acceptable += sentence.acceptable ? 1 : 0;
      const auto words = words_of(sentence.text);
      if (split == Split::train) {
        train_words.insert(words.begin(), words.end());
      } else {
        for (const std::string& word : words) {
          if (train_words.contains(word)) continue;
          ++count.with_new_word;
          break;
        }
      }
    }
  }
  CHECK(counts[Split::train].size() >= 8);
  CHECK(counts[Split::train].size() == counts[Split::dev].size());
  for (const auto& [split, phenomena] : counts) {
    int acceptable = 0;
    int all = 0;
    for (const auto& entry : phenomena) {
      const Count& count = entry.second;
      CAPTURE(entry.first);
      CHECK(count.all >= (split == Split::train ? 200 : 25));
      const double share = static_cast<double>(count.acceptable) / count.all;
      CHECK(share > 0.45);
      CHECK(share < 0.85);
      if (split == Split::dev) CHECK(count.with_new_word * 5 >= count.all * 2);
      acceptable += count.acceptable;
      all += count.all;
    }
    const double share = static_cast<double>(acceptable) / all;
    CHECK(share > 0.60);
    CHECK(share < 0.70);
  }
}

TEST_CASE("sentences are well-formed text") {
  for (const Split split : {Split::train, Split::dev}) {
    for (const auto& sentence : builtin_acceptability_sentences(split)) {
      CAPTURE(sentence.text);
      REQUIRE(sentence.text.size() > 8);
      CHECK(std::isupper(static_cast<unsigned char>(sentence.text.front())) != 0);
      CHECK((sentence.text.back() == '.' || sentence.text.back() == '?'));
      CHECK(sentence.text.find("  ") == std::string::npos);
      CHECK(sentence.text.find(" .") == std::string::npos);
      CHECK(sentence.text.find(" a a") == std::string::npos);
    }
  }
}

TEST_CASE("the task without files is this set") {
  const Dataset data = load_split(find_task("acceptability"), "no/such/folder", Split::dev);
  const auto sentences = builtin_acceptability_sentences(Split::dev);
  CHECK(data.name == "acceptability/dev");
  REQUIRE(data.examples.size() == sentences.size());
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    CHECK(data.examples[i].a == sentences[i].text);
    CHECK(data.examples[i].label == (sentences[i].acceptable ? 1.0F : 0.0F));
  }
}
