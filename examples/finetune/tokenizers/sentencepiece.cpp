#include "tokenizers/sentencepiece.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <utility>

#ifdef FINETUNE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

#include "tokenizers/encoding.hpp"

namespace sparsegrad::finetune {
namespace {

// Protocol buffers: a field is its number and kind, then its value.
void append_varint(std::uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7U)
    out.push_back(static_cast<char>(value | 0x80U));
  out.push_back(static_cast<char>(value));
}
void append_number(unsigned field, std::uint64_t value, std::string& out) {
  append_varint(field << 3U, out);
  append_varint(value, out);
}
void append_bytes(unsigned field, std::string_view value, std::string& out) {
  append_varint(field << 3U | 2U, out);
  append_varint(value.size(), out);
  out += value;
}

/// The fields of a message one after the other.
class Fields {
 public:
  Fields(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  unsigned number = 0;
  std::uint64_t value = 0;  ///< of a varint, or the bits of 32 or 64
  std::string_view text;    ///< of bytes

  /// Moves to the next one; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    number = static_cast<unsigned>(key >> 3U);
    switch (key & 7U) {
      case 0:
        value = varint();
        return true;
      case 1:
        value = bits(8);
        return true;
      case 2:
        text = take(varint());
        return true;
      case 5:
        value = bits(4);
        return true;
      default:
        throw malformed();
    }
  }

 private:
  TokenizerError malformed() const {
    return TokenizerError(name_ +
                          ": expected a SentencePiece model, found bytes that are none (file truncated?)");
  }
  std::uint64_t varint() {
    std::uint64_t x = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      x |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
      if ((byte & 0x80U) == 0) return x;
    }
    throw malformed();
  }
  std::uint64_t bits(std::size_t size) {
    std::uint64_t x = 0;
    std::memcpy(&x, take(size).data(), size);
    return x;
  }
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) throw malformed();
    const std::string_view part = rest_.substr(0, static_cast<std::size_t>(size));
    rest_.remove_prefix(part.size());
    return part;
  }

  std::string_view rest_;
  const std::string& name_;
};

Piece read_piece(std::string_view bytes, const std::string& name) {
  Piece piece;
  for (Fields fields(bytes, name); fields.next();) {
    if (fields.number == 1) piece.text = fields.text;
    if (fields.number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(fields.value));
    if (fields.number != 3) continue;
    if (fields.value < 1 || fields.value > 6) {
      throw TokenizerError(name + ": a piece has the type " + std::to_string(fields.value) +
                           ", expected a number from 1 to 6");
    }
    piece.type = static_cast<PieceType>(fields.value);
  }
  return piece;
}

}  // namespace

PieceModel read_piece_model(std::string_view model, const std::string& name) {
  const auto refuse = [&](const char* what) {
    return TokenizerError(name + ": the SentencePiece model " + what);
  };
  PieceModel result;
  std::uint64_t type = 1;  // as sentencepiece_model.proto has it where a file says nothing
  bool removes_blanks = true;
  for (Fields fields(model, name); fields.next();) {
    if (fields.number == 1) result.pieces.push_back(read_piece(fields.text, name));
    if (fields.number == 2) {
      for (Fields trainer(fields.text, name); trainer.next();) {
        if (trainer.number == 3) type = trainer.value;
        if (trainer.number == 24 && trainer.value != 0)
          throw refuse("has blanks as suffixes, expected them before words");
      }
    }
    if (fields.number != 3) continue;
    for (Fields normalizer(fields.text, name); normalizer.next();) {
      if (normalizer.number == 2 && !normalizer.text.empty())
        throw refuse("normalises texts, expected \"identity\" as LLaMA's");
      if (normalizer.number == 3) result.add_dummy_prefix = normalizer.value != 0;
      if (normalizer.number == 4) removes_blanks = normalizer.value != 0;
      if (normalizer.number == 5 && normalizer.value == 0)
        throw refuse("keeps blanks as they are, expected U+2581 for them");
    }
  }
  if (result.pieces.empty()) throw refuse("has no pieces");
  if (type != 2) throw refuse("is not of byte-pair encoding");
  if (removes_blanks) throw refuse("removes blanks that follow one another, expected all to stay");
  return result;
}

std::string sentencepiece_model(const std::vector<Piece>& pieces, bool add_dummy_prefix) {
  std::string model;
  bool bytes = false;
  for (const Piece& piece : pieces) {
    std::string entry;
    append_bytes(1, piece.text, entry);
    char score[sizeof piece.score];
    std::memcpy(score, &piece.score, sizeof score);
    append_varint(2U << 3U | 5U, entry);
    entry.append(score, sizeof score);
    append_number(3, static_cast<std::uint64_t>(piece.type), entry);
    append_bytes(1, entry, model);
    bytes = bytes || piece.type == PieceType::byte;
  }
  std::string trainer;
  append_number(3, 2, trainer);  // model_type BPE
  append_number(35, bytes ? 1 : 0, trainer);
  append_bytes(2, trainer, model);
  std::string normalizer;
  append_bytes(1, "identity", normalizer);
  append_number(3, add_dummy_prefix ? 1 : 0, normalizer);
  append_number(4, 0, normalizer);  // remove_extra_whitespaces
  append_number(5, 1, normalizer);  // escape_whitespaces
  append_bytes(3, normalizer, model);
  return model;
}

#ifndef FINETUNE_SENTENCEPIECE

bool has_sentencepiece() {
  return false;
}

std::unique_ptr<CausalTokenizer> sentencepiece_tokenizer(const std::string&, const std::vector<AddedToken>&,
                                                         CausalSettings, const std::string& name) {
  throw TokenizerError(
      name +
      ": is a SentencePiece model, for which this program was built without the library; install "
      "libsentencepiece-dev and build it again");
}

#else

bool has_sentencepiece() {
  return true;
}

namespace {

class SentencePieceTokenizer final : public CausalTokenizer {
 public:
  SentencePieceTokenizer(const std::string& model, const std::vector<AddedToken>& added,
                         CausalSettings settings, const std::string& name)
      : CausalTokenizer(std::move(settings), {}) {
    load(first_, model, name);
    // A field that stands again at the end goes first: normalizer_spec.add_dummy_prefix is false.
    std::string normalizer;
    append_number(3, 0, normalizer);
    std::string following = model;
    append_bytes(3, normalizer, following);
    load(following_, following, name);
    adds_prefix_ = pieces(first_, "a") != pieces(following_, "a");

    const int count = first_.GetPieceSize();
    Vocabulary vocabulary;
    std::vector<AddedToken> tokens;
    for (int id = 0; id < count; ++id) {
      vocabulary.emplace_back(first_.IdToPiece(id), id);
      if (first_.IsControl(id) || first_.IsUnknown(id)) {
        AddedToken token;
        token.content = first_.IdToPiece(id);
        token.id = id;
        token.special = true;
        tokens.push_back(std::move(token));
      }
    }
    for (const AddedToken& token : added) {
      const auto same = std::find_if(tokens.begin(), tokens.end(),
                                     [&](const AddedToken& known) { return known.content == token.content; });
      if (same == tokens.end()) {
        tokens.push_back(token);
      } else {
        *same = token;
      }
    }
    table_ = TokenTable(std::move(vocabulary), std::move(tokens));
    for (const AddedToken& token : table_.added()) {
      added_[token.id] = token.special;
      all_.add(token.content, token);
      if (!token.special) not_special_.add(token.content, token);
    }
    const auto from_model = [](std::optional<std::int32_t>& id, int found) {
      if (!id && found >= 0) id = found;
    };
    from_model(settings_.bos_id, first_.bos_id());
    from_model(settings_.eos_id, first_.eos_id());
    from_model(settings_.pad_id, first_.pad_id());
    if (settings_.end_ids.empty() && settings_.eos_id) settings_.end_ids.push_back(*settings_.eos_id);
    for (const auto& id : {settings_.bos_id, settings_.eos_id, settings_.pad_id})
      if (id) table_.token_of(*id);
  }

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const override {
    require_utf8(text);
    std::vector<std::int32_t> ids;
    bool at_start = true;
    for (const Stretch& part : (special == SpecialText::parsed ? all_ : not_special_).split(text)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        for (const int id : pieces(at_start ? first_ : following_, part.text))
          ids.push_back(id);
      }
      at_start = false;
    }
    return ids;
  }

  std::string bytes_of(std::int32_t id) const override {
    const std::string& token = table_.token_of(id);
    if (added_.contains(id)) return token;
    if (first_.IsByte(id))
      return std::string(1, static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16)));
    std::string text;
    constexpr std::string_view space = "\xE2\x96\x81";
    for (std::size_t at = 0; at < token.size();) {
      const bool is_space = token.compare(at, space.size(), space) == 0;
      text.push_back(is_space ? ' ' : token[at]);
      at += is_space ? space.size() : 1;
    }
    return text;
  }

  bool is_special(std::int32_t id) const override {
    const auto found = added_.find(id);
    return found != added_.end() && found->second;
  }
  bool strips_first_space() const override { return adds_prefix_; }
  const std::string& token_of(std::int32_t id) const override { return table_.token_of(id); }
  std::optional<std::int32_t> id_of(std::string_view token) const override { return table_.find(token); }
  std::size_t vocab_size() const override { return table_.id_end(); }

 private:
  static void load(sentencepiece::SentencePieceProcessor& to, const std::string& model,
                   const std::string& name) {
    if (const auto status = to.LoadFromSerializedProto(model); !status.ok())
      throw TokenizerError(name + ": expected a SentencePiece model, found: " + status.ToString());
  }
  static std::vector<int> pieces(const sentencepiece::SentencePieceProcessor& by, std::string_view text) {
    std::vector<int> ids;
    if (const auto status = by.Encode({text.data(), text.size()}, &ids); !status.ok())
      throw TokenizerError("SentencePiece cannot encode a text: " + status.ToString());
    return ids;
  }

  sentencepiece::SentencePieceProcessor first_;      ///< of a text's begin
  sentencepiece::SentencePieceProcessor following_;  ///< without a space before the first word
  bool adds_prefix_ = false;
  TokenTable table_;
  std::unordered_map<std::int32_t, bool> added_;  ///< whether it is special
  AddedTokenMatcher all_, not_special_;
};

}  // namespace

std::unique_ptr<CausalTokenizer> sentencepiece_tokenizer(const std::string& model,
                                                         const std::vector<AddedToken>& added,
                                                         CausalSettings settings, const std::string& name) {
  return std::make_unique<SentencePieceTokenizer>(model, added, std::move(settings), name);
}

#endif

}  // namespace sparsegrad::finetune
