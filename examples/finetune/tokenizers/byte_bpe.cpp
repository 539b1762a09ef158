#include "tokenizers/byte_bpe.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <unordered_map>

#include "tokenizers/encoding.hpp"
#include "tokenizers/folder_settings.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer_files.hpp"
#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
using namespace tokenizer_files;
namespace {

using Merges = ByteBpeTokenizer::Merges;

// ---- Words

enum class Kind { letter, number, space, other };

Kind kind_of(char32_t c) {
  if (unicode::is_letter(c)) return Kind::letter;
  if (unicode::is_number(c)) return Kind::number;
  return unicode::is_white_space(c) ? Kind::space : Kind::other;
}

/// Length of 's, 't, 're, 've, 'm, 'll or 'd at the start of `text`, or 0.
std::size_t contraction_length(std::u32string_view text) {
  for (const std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  return 0;
}

/// Characters of the word at the start of `text`, which is not empty.
std::size_t word_length(std::u32string_view text) {
  if (const std::size_t length = contraction_length(text); length > 0) return length;
  const auto run_end = [&](std::size_t start) {
    const Kind kind = kind_of(text[start]);
    std::size_t end = start + 1;
    while (end < text.size() && kind_of(text[end]) == kind)
      ++end;
    return end;
  };
  const std::size_t space = text[0] == U' ' ? 1 : 0;
  if (space < text.size() && kind_of(text[space]) != Kind::space) return run_end(space);
  const std::size_t end = run_end(0);
  // The last of several spaces belongs to what follows.
  return end == text.size() || end == 1 ? end : end - 1;
}

// ---- Bytes

/// The characters that stand for bytes in the vocabulary: printable ones of Latin-1 for themselves, the other
/// bytes in their order from U+0100.
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> out;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    append_utf8(printable ? byte : next++, out[byte]);
  }
  return out;
}

std::string hexadecimal(std::size_t byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'0', 'x', digits[byte / 16], digits[byte % 16]};
}

// ---- Merging

struct Merge {
  std::size_t rank = 0;
  std::int32_t id = 0;  // of the result
};

class MergeTable {
 public:
  MergeTable() = default;
  MergeTable(const Merges& merges, const TokenMap& vocabulary) {
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

  void append_merged(const std::vector<std::int32_t>& word, std::vector<std::int32_t>& ids) {
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

  void offer(std::size_t at) {
    const Piece& left = pieces_[at];
    const std::int32_t right = pieces_[left.next].id;
    if (const Merge* merge = merges_.find(left.id, right))
      queue_.push({merge->rank, at, left.id, right, merge->id});
  }

  const MergeTable& merges_;
  std::vector<Piece> pieces_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

// ---- Files

/// What the files of a directory say, before it is checked, and the files themselves for errors.
struct Description {
  Path vocabulary_file{};
  Path merges_file{};
  Vocabulary vocabulary{};
  Merges merges{};
  ByteBpeOptions options{};
  std::vector<AddedToken> added{};
  Json tokenizer_json{};  ///< without its vocabulary; null where there is no such file
};

Merges read_merges_txt(const Path& file, TokenizerReport& report) {
  Merges merges;
  const std::vector<std::string> lines = read_lines(file, &report);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.empty() || line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string::npos) {
      throw TokenizerError(file.string() + ":" + std::to_string(i + 1) +
                           ": expected two tokens with a space between them, found " + in_quotes(line));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

/// Merges stand as "a b" in older files, as ["a", "b"] in newer ones.
Merges read_merges_json(const Json& array, const Path& file) {
  if (!array.is_array())
    throw TokenizerError(file.string() + ": expected \"merges\" to be an array, found " + array.type_name());
  Merges merges;
  for (const Json& entry : array) {
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
      continue;
    }
    throw TokenizerError(file.string() + ": expected merge " + std::to_string(merges.size() + 1) +
                         " as \"a b\" or [\"a\", \"b\"], found " + entry.dump());
  }
  return merges;
}

Vocabulary read_vocab_json(const Path& file) {
  const Json vocabulary = read_json(file);
  if (vocabulary.is_object()) return read_vocabulary(vocabulary, file);
  throw TokenizerError(file.string() + ": expected a JSON object of tokens and ids, found " +
                       vocabulary.type_name());
}

Description read_two_files(const Path& vocab_json, const Path& merges_txt, TokenizerReport& report) {
  Description description{.vocabulary_file = vocab_json, .merges_file = merges_txt};
  description.vocabulary = read_vocab_json(vocab_json);
  description.merges = read_merges_txt(merges_txt, report);
  report.files.insert(report.files.end(), {"vocab.json", "merges.txt"});
  if (description.merges.empty()) {
    report.notes.emplace_back("merges.txt has no merges: every byte of a text is a token of its own");
  }
  return description;
}

Description read_tokenizer_json(const Path& file) {
  Description description{.vocabulary_file = file, .merges_file = file};
  Json& root = description.tokenizer_json = read_json(file);
  const Json& model = object_at(root, "model", file);
  if (const std::string type = model_type(root, file); type != "BPE")
    throw TokenizerError(file.string() + ": expected a BPE model, found " + type);
  const auto refuse = [&](const char* key, bool is_set) {
    if (is_set) {
      throw TokenizerError(file.string() + ": expected a model without " + key + ", found " +
                           model.at(key).dump());
    }
  };
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    refuse(key, !get_optional<std::string>(model, key, file).value_or("").empty());
  for (const char* key : {"byte_fallback", "ignore_merges"})
    refuse(key, get_optional<bool>(model, key, file).value_or(false));
  refuse("dropout", get_optional<double>(model, "dropout", file).value_or(0) != 0);

  ByteBpeOptions& options = description.options;
  expect_type(root, "normalizer", {"none"}, file);
  expect_type(root, "pre_tokenizer", {"ByteLevel"}, file);
  const Json& pre_tokenizer = root.at("pre_tokenizer");
  set_from(options.add_prefix_space, pre_tokenizer, "add_prefix_space", file);
  if (!get_optional<bool>(pre_tokenizer, "use_regex", file).value_or(true))
    throw TokenizerError(file.string() + ": the pre_tokenizer's \"use_regex\" is false, expected true");
  description.vocabulary = read_vocabulary(object_at(model, "vocab", file), file);
  description.merges = read_merges_json(model.value("merges", Json()), file);
  description.added = read_added_tokens(root, file);
  read_post_processor(root, {"RoBERTa", "RobertaProcessing", " %:0 B:0 %:0"}, description.vocabulary,
                      description.added, options.cls_token, options.sep_token, file);
  root.erase("model");
  return description;
}

/// Reads vocab.json and merges.txt beside tokenizer.json, which goes before them, and notes where they
/// differ.
void compare_two_files(const Path& directory, const Description& description, TokenizerReport& report) {
  const auto compare = [&](const char* name, auto read) {
    std::error_code no_error;
    if (!std::filesystem::exists(directory / name, no_error)) return;
    try {
      read(directory / name);
      report.files.emplace_back(name);
    } catch (const TokenizerError& error) {
      note_unreadable(error, report);
    }
  };
  compare("vocab.json", [&](const Path& file) {
    note_differences("vocab.json", read_vocab_json(file), description.vocabulary, description.added, report);
  });
  compare("merges.txt", [&](const Path& file) {
    const Merges other = read_merges_txt(file, report);
    if (other == description.merges) return;
    const std::size_t both = std::min(other.size(), description.merges.size());
    const auto first = std::mismatch(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(both),
                                     description.merges.begin())
                           .first;
    report.notes.push_back("merges.txt contradicts tokenizer.json, first in merge " +
                           std::to_string(first - other.begin() + 1) +
                           ": tokenizer.json goes first, as in transformers");
  });
}

/// tokenizer_config.json and the other files beside the vocabulary.
void read_settings(const Path& directory, Description& description, TokenizerReport& report) {
  static constexpr std::array<std::string_view, 4> classes{"RobertaTokenizer", "RobertaTokenizerFast",
                                                           "PreTrainedTokenizerFast", "TokenizersBackend"};
  ByteBpeOptions& options = description.options;
  const FrameTokens of_json{options.cls_token, options.sep_token};
  // Of no use here, but special: transformers' class has them by these names where no file says otherwise.
  std::string bos_token = "<s>";
  std::string eos_token = "</s>";
  const Json config = read_folder_settings(directory, {"byte-level BPE", classes},
                                           {{"bos_token", &bos_token},
                                            {"eos_token", &eos_token},
                                            {"unk_token", &options.unk_token},
                                            {"cls_token", &options.cls_token},
                                            {"sep_token", &options.sep_token},
                                            {"pad_token", &options.pad_token},
                                            {"mask_token", &options.mask_token}},
                                           description.vocabulary, description.added, report);
  if (!follows_tokenizer_json(config)) {
    for (const std::string& token : {bos_token, eos_token})
      add_if_known(token, description.vocabulary, description.added);
  }
  const Path file = directory / "tokenizer_config.json";
  if (description.tokenizer_json.is_null()) {
    set_from(options.add_prefix_space, config, "add_prefix_space", file);
  } else {
    settle_frame_tokens(description.tokenizer_json, config, of_json, options.cls_token, options.sep_token,
                        report);
    settle(options.add_prefix_space, config, "add_prefix_space", "add_prefix_space", false, file, report);
  }
  check_sides(description.tokenizer_json, config, directory, report);
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text) {
  require_utf8(text);
  const std::u32string characters = decode_utf8(text);
  std::u32string_view rest = characters;
  std::vector<std::string_view> words;
  while (!rest.empty()) {
    const std::size_t length = word_length(rest);
    const std::size_t bytes = encode_utf8(rest.substr(0, length)).size();
    words.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
    rest.remove_prefix(length);
  }
  return words;
}

struct ByteBpeTokenizer::Impl {
  ByteBpeOptions options;
  TokenTable table;
  MergeTable merges;
  std::array<std::int32_t, 256> byte_ids{};
  // There is no normalisation, but tokens of the raw text are matched before those of the normalised text.
  AddedTokenMatcher raw_tokens;
  AddedTokenMatcher normalized_tokens;
  std::int32_t unk_id = 0;
  std::int32_t cls_id = 0;
  std::int32_t sep_id = 0;
  std::int32_t pad_id = 0;
  std::optional<std::int32_t> mask_id;

  /// Errors name the file that they are about where `description` has it.
  static std::shared_ptr<const Impl> from(Description description) {
    auto impl = std::make_shared<Impl>();
    impl->options = description.options;
    const auto in_file = [](const Path& file, auto make) {
      if (file.empty()) {
        make();
      } else {
        naming_file(file, make);
      }
    };
    in_file(description.vocabulary_file,
            [&] { impl->set_tokens(std::move(description.vocabulary), std::move(description.added)); });
    in_file(description.merges_file,
            [&] { impl->merges = MergeTable(description.merges, impl->table.vocabulary()); });
    return impl;
  }

  void set_tokens(Vocabulary vocabulary, std::vector<AddedToken> added) {
    table = TokenTable(std::move(vocabulary), std::move(added));
    unk_id = table.add_special({.content = options.unk_token}, "unknown");
    cls_id = table.add_special({.content = options.cls_token}, "first");
    sep_id = table.add_special({.content = options.sep_token}, "separating");
    pad_id = table.add_special({.content = options.pad_token}, "padding");
    if (table.find(options.mask_token))
      mask_id = table.add_special({.content = options.mask_token, .lstrip = true}, "mask");
    if (const auto id = table.hole()) {
      throw TokenizerError("expected a token for every id below " + std::to_string(table.id_end()) +
                           ", found none for " + std::to_string(*id));
    }
    const std::array<std::string, 256> characters = byte_characters();
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const auto found = table.vocabulary().find(characters[byte]);
      if (found == table.vocabulary().end()) {
        throw TokenizerError("expected a token for every byte, found no " + in_quotes(characters[byte]) +
                             " for " + hexadecimal(byte));
      }
      byte_ids[byte] = found->second;
    }
    for (const AddedToken& token : table.added()) {
      require_utf8(token.content);
      (token.normalized ? normalized_tokens : raw_tokens).add(token.content, token);
    }
  }

  void append_words(std::string_view text, Merger& merger, std::vector<std::int32_t>& ids) const {
    std::string with_space;
    if (options.add_prefix_space && !text.starts_with(' ')) {
      with_space.assign(1, ' ').append(text);
      text = with_space;
    }
    std::vector<std::int32_t> bytes;
    for (const std::string_view word : split_words(text)) {
      bytes.clear();
      for (const char c : word)
        bytes.push_back(byte_ids[static_cast<unsigned char>(c)]);
      merger.append_merged(bytes, ids);
    }
  }
};

ByteBpeTokenizer::ByteBpeTokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

ByteBpeTokenizer::ByteBpeTokenizer(Vocabulary vocabulary, const Merges& merges, const ByteBpeOptions& options,
                                   std::vector<AddedToken> added)
    : impl_(Impl::from({.vocabulary = std::move(vocabulary),
                        .merges = merges,
                        .options = options,
                        .added = std::move(added)})) {}

ByteBpeTokenizer ByteBpeTokenizer::from_vocab(const Path& vocab_json, const Path& merges_txt,
                                              const ByteBpeOptions& options) {
  TokenizerReport unread;
  Description description = read_two_files(vocab_json, merges_txt, unread);
  description.options = options;
  return ByteBpeTokenizer(Impl::from(std::move(description)));
}

ByteBpeTokenizer ByteBpeTokenizer::from_tokenizer_json(const Path& file) {
  return ByteBpeTokenizer(Impl::from(read_tokenizer_json(file)));
}

ByteBpeTokenizer ByteBpeTokenizer::from_directory(const Path& directory, TokenizerReport* report) {
  std::error_code no_error;
  require_directory(directory);
  TokenizerReport own;
  TokenizerReport& out = report != nullptr ? *report : own;
  out.kind = "byte-level BPE";
  const Path tokenizer_json = directory / "tokenizer.json";
  Description description;
  if (std::filesystem::exists(tokenizer_json, no_error)) {
    description = read_tokenizer_json(tokenizer_json);
    out.files.emplace_back("tokenizer.json");
    compare_two_files(directory, description, out);
  } else {
    description = read_two_files(directory / "vocab.json", directory / "merges.txt", out);
  }
  read_settings(directory, description, out);
  return ByteBpeTokenizer(Impl::from(std::move(description)));
}

std::vector<std::int32_t> ByteBpeTokenizer::tokenize_ids(std::string_view text) const {
  require_utf8(text);
  std::vector<std::int32_t> ids;
  Merger merger(impl_->merges);
  for (const Stretch& raw : impl_->raw_tokens.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    for (const Stretch& part : impl_->normalized_tokens.split(raw.text)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        impl_->append_words(part.text, merger, ids);
      }
    }
  }
  return ids;
}

Encoding ByteBpeTokenizer::encode(std::string_view a, std::optional<std::string_view> b,
                                  std::size_t max_length) const {
  const Frame frame{.first = impl_->cls_id, .last = impl_->sep_id, .between = 2, .second_type = 0};
  return encode_in_frame(*this, frame, a, b, max_length);
}

std::int32_t ByteBpeTokenizer::pad_id() const {
  return impl_->pad_id;
}
std::size_t ByteBpeTokenizer::vocab_size() const {
  return impl_->table.id_end();
}
std::int32_t ByteBpeTokenizer::cls_id() const {
  return impl_->cls_id;
}
std::int32_t ByteBpeTokenizer::sep_id() const {
  return impl_->sep_id;
}
std::int32_t ByteBpeTokenizer::unk_id() const {
  return impl_->unk_id;
}
std::optional<std::int32_t> ByteBpeTokenizer::mask_id() const {
  return impl_->mask_id;
}
const ByteBpeOptions& ByteBpeTokenizer::options() const {
  return impl_->options;
}

std::optional<std::int32_t> ByteBpeTokenizer::id_of(std::string_view token) const {
  return impl_->table.find(token);
}

const std::string& ByteBpeTokenizer::token_of(std::int32_t id) const {
  return impl_->table.token_of(id);
}

}  // namespace sparsegrad::finetune
