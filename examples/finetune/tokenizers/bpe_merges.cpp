#include "tokenizers/bpe_merges.hpp"

#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
namespace {

std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> out;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    append_utf8(printable ? byte : next++, out[byte]);
  }
  return out;
}

const std::array<std::string, 256>& characters() {
  static const std::array<std::string, 256> all = byte_characters();
  return all;
}

/// The byte that each character below U+0144 stands for, -1 for none.
std::array<int, 0x144> bytes_by_character() {
  std::array<int, 0x144> out;
  out.fill(-1);
  for (std::size_t byte = 0; byte < 256; ++byte)
    out[decode_utf8(characters()[byte]).front()] = static_cast<int>(byte);
  return out;
}

}  // namespace

const std::string& byte_character(std::size_t byte) {
  return characters()[byte];
}

std::string bytes_of_characters(std::string_view token) {
  static const std::array<int, 0x144> bytes = bytes_by_character();
  std::string out;
  for (const char32_t c : decode_utf8(token)) {
    if (c >= bytes.size() || bytes[c] < 0) return std::string(token);
    out.push_back(static_cast<char>(bytes[c]));
  }
  return out;
}

std::array<std::int32_t, 256> byte_tokens(const TokenMap& vocabulary) {
  std::array<std::int32_t, 256> ids{};
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.find(byte_character(byte));
    ids[byte] = found == vocabulary.end() ? -1 : found->second;
  }
  return ids;
}

std::string hexadecimal(std::size_t byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'0', 'x', digits[byte / 16], digits[byte % 16]};
}

MergeTable::MergeTable(const Merges& merges, const TokenMap& vocabulary) {
  table_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& left = merges[rank].first;
    const std::string& right = merges[rank].second;
    const auto name = [&] {
      return "merge " + std::to_string(rank + 1) + " of " + in_quotes(left) + " and " + in_quotes(right) +
             ": ";
    };
    const auto id_of = [&](const std::string& token) {
      const auto found = vocabulary.find(token);
      if (found != vocabulary.end()) return found->second;
      throw TokenizerError(name() + in_quotes(token) + " is not in the vocabulary");
    };
    const std::uint64_t key = key_of(id_of(left), id_of(right));
    const auto [earlier, is_new] = table_.emplace(key, Merge{rank, id_of(left + right)});
    if (!is_new)
      throw TokenizerError(name() + "stands already as merge " + std::to_string(earlier->second.rank + 1));
  }
}

void Merger::append_merged(const std::vector<std::int32_t>& word, std::vector<std::int32_t>& ids) {
  const std::size_t size = word.size();
  pieces_.clear();
  for (std::size_t i = 0; i < size; ++i)
    pieces_.push_back({word[i], i - 1, i + 1});
  for (std::size_t i = 0; i + 1 < size; ++i)
    offer(i);
  while (!queue_.empty()) {
    const Candidate candidate = queue_.top();
    queue_.pop();
    Piece& left = pieces_[candidate.at];
    // Either piece may have been merged since.
    if (left.id != candidate.left || left.next >= size) continue;
    Piece& right = pieces_[left.next];
    if (right.id != candidate.right) continue;
    left.id = candidate.id;
    left.next = right.next;
    right.id = gone;
    if (left.next < size) {
      pieces_[left.next].previous = candidate.at;
      offer(candidate.at);
    }
    if (left.previous < size) offer(left.previous);
  }
  for (std::size_t i = 0; i < size; i = pieces_[i].next)
    ids.push_back(pieces_[i].id);
}

void Merger::offer(std::size_t at) {
  const Piece& left = pieces_[at];
  const std::int32_t right = pieces_[left.next].id;
  if (const Merge* merge = merges_.find(left.id, right))
    queue_.push({merge->rank, at, left.id, right, merge->id});
}

}  // namespace sparsegrad::finetune
