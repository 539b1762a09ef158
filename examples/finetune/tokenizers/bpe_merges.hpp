#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizers/token_table.hpp"

// What byte-level BPE tokenizers share: tokens of bytes, and merges (Sennrich et al., arXiv 1508.07909; GPT-2).

namespace sparsegrad::finetune {

/// Pairs of tokens that become one, the first pair done first.
using Merges = std::vector<std::pair<std::string, std::string>>;

/// The character that stands for a byte in vocabularies: printable ones of Latin-1 for themselves, the other bytes in
/// their order from U+0100.
const std::string& byte_character(std::size_t byte);
/// The bytes that a token's characters stand for; the token's own where one of them stands for none.
std::string bytes_of_characters(std::string_view token);
/// The id of each byte's token, -1 where the vocabulary has none.
std::array<std::int32_t, 256> byte_tokens(const TokenMap& vocabulary);
/// A byte as text: "0x0A".
std::string hexadecimal(std::size_t byte);

/// A merge of two ids.
struct Merge {
  std::size_t rank = 0;  ///< its place among the merges
  std::int32_t id = 0;   ///< of the result
};

/// The merges by the ids of their parts.
class MergeTable {
 public:
  MergeTable() = default;
  /// Throws TokenizerError: a part or result is no token, a merge stands twice.
  MergeTable(const Merges& merges, const TokenMap& vocabulary);

  /// The merge of these neighbours; null where there is none.
  const Merge* find(std::int32_t left, std::int32_t right) const {
    const auto found = table_.find(key_of(left, right));
    return found == table_.end() ? nullptr : &found->second;
  }

 private:
  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U |
           static_cast<std::uint32_t>(right);
  }

  std::unordered_map<std::uint64_t, Merge> table_;
};

/// Merges the neighbours of lowest rank, the leftmost of several, until none can be merged. A queue makes
/// that n log n for a word of n bytes: text from outside may be one long word.
class Merger {
 public:
  explicit Merger(const MergeTable& merges) : merges_(merges) {}

  /// Appends to `ids` what the tokens of `word` become.
  void append_merged(const std::vector<std::int32_t>& word, std::vector<std::int32_t>& ids);

 private:
  static constexpr std::int32_t gone = -1;
  // Places are within the word; before its start is the largest size_t, after its end its size.
  struct Piece {
    std::int32_t id;
    std::size_t previous, next;
  };
  struct Candidate {
    std::size_t rank, at;
    std::int32_t left, right, id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };

  void offer(std::size_t at);

  const MergeTable& merges_;
  std::vector<Piece> pieces_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

}  // namespace sparsegrad::finetune
