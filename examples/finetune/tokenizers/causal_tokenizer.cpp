#include "tokenizers/causal_tokenizer.hpp"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "tokenizers/encoding.hpp"
#include "tokenizers/unicode.hpp"

namespace sparsegrad::finetune {
namespace {

std::string composed(std::string_view text) {
  return encode_utf8(unicode::compose(decode_utf8(text)));
}

void require_token(const TokenTable& table, const std::optional<std::int32_t>& id, const char* role) {
  if (!id) return;
  try {
    table.token_of(*id);
  } catch (const TokenizerError& error) {
    throw TokenizerError("the id of the token that " + std::string(role) + ": " + error.what());
  }
}

}  // namespace

std::string CausalTokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const std::int32_t id : ids)
    if (!skip_special || !is_special(id)) bytes += bytes_of(id);
  if (strips_first_space() && bytes.starts_with(' ')) bytes.erase(0, 1);
  return bytes;
}

std::string StreamingDecoder::push(std::int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  std::string bytes = tokenizer_.bytes_of(id);
  const bool strips = std::exchange(at_begin_, false) && tokenizer_.strips_first_space();
  if (strips && bytes.starts_with(' ')) bytes.erase(0, 1);
  return stream_.push(bytes);
}

struct CausalBpeTokenizer::Impl {
  /// Added tokens of the raw text, and of the normalised text.
  struct Matchers {
    AddedTokenMatcher raw, normalized;
  };

  SplitPattern pattern = SplitPattern::gpt2;
  bool nfc = false;
  bool ignore_merges = false;
  bool fuse_unk = false;
  std::int32_t unk_id = -1;
  TokenTable table;
  MergeTable merges;
  std::array<std::int32_t, 256> byte_ids{};
  Matchers all;          ///< of every added token
  Matchers not_special;  ///< of those that are text
  struct Added {
    bool special = false;
    std::string
        text;  ///< what it stands for: its content, normalised where it is looked for in normalised text
  };
  std::unordered_map<std::int32_t, Added> added;

  void append_word(std::string_view word, Merger& merger, std::vector<std::int32_t>& ids) const {
    if (ignore_merges) {
      std::string token;
      for (const char c : word)
        token += byte_character(static_cast<unsigned char>(c));
      const auto found = table.vocabulary().find(token);
      if (found != table.vocabulary().end()) {
        ids.push_back(found->second);
        return;
      }
    }
    std::vector<std::int32_t> bytes;
    bool after_unk = false;
    for (const char c : word) {
      const std::int32_t id = byte_ids[static_cast<unsigned char>(c)];
      const bool is_unk = id < 0;
      if (!is_unk) {
        bytes.push_back(id);
      } else if (unk_id >= 0 && !(fuse_unk && after_unk)) {
        bytes.push_back(unk_id);
      }
      after_unk = is_unk;
    }
    merger.append_merged(bytes, ids);
  }
};

CausalBpeTokenizer::CausalBpeTokenizer(CausalBpeParts parts) : CausalTokenizer(parts.settings, {}) {
  const auto impl = std::make_shared<Impl>();
  impl->pattern = parts.pattern;
  impl->nfc = parts.nfc;
  impl->ignore_merges = parts.ignore_merges;
  impl->fuse_unk = parts.fuse_unk;
  impl->table = TokenTable(std::move(parts.vocabulary), std::move(parts.added));
  const TokenTable& table = impl->table;
  impl->merges = MergeTable(parts.merges, table.vocabulary());
  impl->byte_ids = byte_tokens(table.vocabulary());
  if (parts.unk_token) {
    const auto found = table.vocabulary().find(*parts.unk_token);
    if (found == table.vocabulary().end()) {
      throw TokenizerError("expected the unknown token " + in_quotes(*parts.unk_token) +
                           " in the vocabulary, found none");
    }
    impl->unk_id = found->second;
  }
  for (const AddedToken& token : table.added()) {
    require_utf8(token.content);
    const std::string pattern = parts.nfc && token.normalized ? composed(token.content) : token.content;
    const auto add = [&](Impl::Matchers& to) {
      (token.normalized ? to.normalized : to.raw).add(pattern, token);
    };
    impl->added[token.id] = {token.special, pattern};
    add(impl->all);
    if (!token.special) add(impl->not_special);
  }
  require_token(table, parts.settings.bos_id, "begins a text");
  require_token(table, parts.settings.eos_id, "ends a text");
  require_token(table, parts.settings.pad_id, "pads");
  for (const std::int32_t id : parts.settings.end_ids)
    require_token(table, id, "ends an answer");

  std::string missing;
  for (std::size_t byte = 0; byte < 256; ++byte)
    if (impl->byte_ids[byte] < 0) missing += (missing.empty() ? "" : " ") + hexadecimal(byte);
  if (!missing.empty()) {
    notes_.push_back("the vocabulary has no token for the bytes " + missing + ": in texts they " +
                     (parts.unk_token ? "become " + in_quotes(*parts.unk_token) : "are left out") +
                     ", as transformers does it");
  }
  impl_ = impl;
}

std::vector<std::int32_t> CausalBpeTokenizer::encode(std::string_view text, SpecialText special) const {
  require_utf8(text);
  const Impl::Matchers& matchers = special == SpecialText::parsed ? impl_->all : impl_->not_special;
  std::vector<std::int32_t> ids;
  Merger merger(impl_->merges);
  for (const Stretch& raw : matchers.raw.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    const std::string normal = impl_->nfc ? composed(raw.text) : std::string(raw.text);
    for (const Stretch& part : matchers.normalized.split(normal)) {
      if (part.id) {
        ids.push_back(*part.id);
        continue;
      }
      for (const std::string_view word : split_words(part.text, impl_->pattern))
        impl_->append_word(word, merger, ids);
    }
  }
  return ids;
}

std::string CausalBpeTokenizer::bytes_of(std::int32_t id) const {
  const auto found = impl_->added.find(id);
  return found != impl_->added.end() ? found->second.text : bytes_of_characters(token_of(id));
}

bool CausalBpeTokenizer::is_special(std::int32_t id) const {
  const auto found = impl_->added.find(id);
  return found != impl_->added.end() && found->second.special;
}

const std::string& CausalBpeTokenizer::token_of(std::int32_t id) const {
  return impl_->table.token_of(id);
}
std::optional<std::int32_t> CausalBpeTokenizer::id_of(std::string_view token) const {
  return impl_->table.find(token);
}
std::size_t CausalBpeTokenizer::vocab_size() const {
  return impl_->table.id_end();
}

}  // namespace sparsegrad::finetune
