#include "tokenizers/wordpiece.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <unordered_map>
#include <utility>

#include "tokenizers/encoding.hpp"
#include "tokenizers/folder_settings.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer_files.hpp"
#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
using namespace tokenizer_files;
namespace {

std::u32string normalize_text(std::u32string text, const WordPieceOptions& options) {
  if (options.clean_text) {
    std::u32string clean;
    clean.reserve(text.size());
    for (const char32_t c : text) {
      const bool line_space = c == U'\t' || c == U'\n' || c == U'\r';
      if (c == 0 || c == 0xFFFD || (!line_space && unicode::is_control(c))) continue;
      clean.push_back(line_space || unicode::is_white_space(c) ? U' ' : c);
    }
    text = std::move(clean);
  }
  if (options.tokenize_chinese_chars) {
    std::u32string spaced;
    spaced.reserve(text.size());
    for (const char32_t c : text) {
      if (unicode::is_chinese_character(c)) {
        spaced.append({U' ', c, U' '});
      } else {
        spaced.push_back(c);
      }
    }
    text = std::move(spaced);
  }
  if (options.strip_accents.value_or(options.do_lower_case)) {
    text = unicode::decompose(text);
    std::erase_if(text, unicode::is_nonspacing_mark);
  }
  if (options.do_lower_case) {
    std::u32string lower;
    lower.reserve(text.size());
    for (const char32_t c : text)
      unicode::append_lower_case(c, lower);
    text = std::move(lower);
  }
  return text;
}

/// What the files of a directory say, before it is checked.
struct Description {
  Vocabulary vocabulary;
  WordPieceOptions options;
  std::vector<AddedToken> added;
  Json tokenizer_json{};   ///< without its vocabulary; null where there is no such file
  bool pair_types = true;  ///< a pair's second sentence is of type 1
};

Description read_tokenizer_json(const std::filesystem::path& file) {
  Description description;
  Json& root = description.tokenizer_json = read_json(file);
  const Json& model = object_at(root, "model", file);
  if (const std::string type = model_type(root, file); type != "WordPiece")
    throw TokenizerError(file.string() + ": expected a WordPiece model, found " + type);
  WordPieceOptions& options = description.options;
  set_from(options.unk_token, model, "unk_token", file);
  set_from(options.continuing_subword_prefix, model, "continuing_subword_prefix", file);
  set_from(options.max_input_chars_per_word, model, "max_input_chars_per_word", file);

  expect_type(root, "normalizer", {"BertNormalizer"}, file);
  const Json& normalizer = root.at("normalizer");
  set_from(options.clean_text, normalizer, "clean_text", file);
  set_from(options.tokenize_chinese_chars, normalizer, "handle_chinese_chars", file);
  set_from(options.strip_accents, normalizer, "strip_accents", file);
  set_from(options.do_lower_case, normalizer, "lowercase", file);
  expect_type(root, "pre_tokenizer", {"BertPreTokenizer"}, file);
  description.vocabulary = read_vocabulary(object_at(model, "vocab", file), file);
  description.added = read_added_tokens(root, file);
  read_post_processor(root, {"BERT", "BertProcessing", " B:1 %:1"}, description.vocabulary, description.added,
                      options.cls_token, options.sep_token, file);
  root.erase("model");
  return description;
}

/// The number of a line is its token's id: a blank line is an id without a token, and of a repeated token the
/// last line counts, as in transformers.
Vocabulary read_vocab_txt(const std::filesystem::path& file, TokenizerReport& report) {
  std::vector<std::string> lines = read_lines(file, &report);
  const std::string name = file.filename().string();
  std::unordered_map<std::string_view, std::size_t> last_line;
  std::size_t blank = 0;
  std::size_t first_blank = 0;
  std::size_t repeated = 0;
  std::string first_repeated;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) {
      if (blank++ == 0) first_blank = i + 1;
      continue;
    }
    const auto [earlier, is_new] = last_line.emplace(lines[i], i);
    if (is_new) continue;
    if (repeated++ == 0) {
      first_repeated = "line " + std::to_string(i + 1) + ", " + in_quotes(lines[i]) +
                       ", which stands already in line " + std::to_string(earlier->second + 1);
    }
    earlier->second = i;
  }
  // Blank lines at the end take no id from anything.
  while (blank > 0 && lines.back().empty()) {
    lines.pop_back();
    --blank;
  }
  if (blank > 0) {
    report.notes.push_back(name + " has blank lines within, the first of " + std::to_string(blank) +
                           " is line " + std::to_string(first_blank) +
                           ": each takes an id, that of its line, which no text gets");
  }
  if (repeated > 0) {
    report.notes.push_back(name + " has " + std::to_string(repeated) + " repeated lines, the first is " +
                           first_repeated + ": the last line of a token gives its id, as in transformers");
  }
  Vocabulary vocabulary;
  vocabulary.reserve(last_line.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (!lines[i].empty() && last_line.at(lines[i]) == i)
      vocabulary.emplace_back(lines[i], static_cast<std::int32_t>(i));
  return vocabulary;
}

/// Reads a vocab.txt beside tokenizer.json, which goes before it, and notes where they differ.
void compare_vocab_txt(const std::filesystem::path& file, const Vocabulary& vocabulary,
                       const std::vector<AddedToken>& added, TokenizerReport& report) {
  try {
    const Vocabulary other = read_vocab_txt(file, report);
    note_differences("vocab.txt", other, vocabulary, added, report);
    report.files.emplace_back("vocab.txt");
  } catch (const TokenizerError& error) {
    note_unreadable(error, report);
  }
}

/// Tokens with capital letters are lost where text is put into lower case; the vocabulary of an uncased model
/// has none.
void note_capitals(const Description& description, TokenizerReport& report) {
  if (!description.options.do_lower_case) return;
  const auto has_capitals = [](const std::pair<std::string, std::int32_t>& entry) {
    if (entry.first.starts_with('[')) return false;  // [CLS], [unused0]
    const std::u32string text = decode_utf8(entry.first);
    std::u32string lower;
    for (const char32_t c : text)
      unicode::append_lower_case(c, lower);
    return lower != text;
  };
  const Vocabulary& vocabulary = description.vocabulary;
  const auto lost =
      static_cast<std::size_t>(std::count_if(vocabulary.begin(), vocabulary.end(), has_capitals));
  if (8 * lost <= vocabulary.size()) return;
  report.notes.push_back(std::to_string(lost) + " of the vocabulary's " + std::to_string(vocabulary.size()) +
                         " tokens have capital letters, but texts are put into lower case: for a cased "
                         "vocabulary write \"do_lower_case\": false into tokenizer_config.json");
}

/// tokenizer_config.json and the other files beside the vocabulary.
void read_settings(const std::filesystem::path& directory, Description& description,
                   TokenizerReport& report) {
  static constexpr std::array<std::string_view, 10> classes{
      "BertTokenizer",           "BertTokenizerFast",    "DistilBertTokenizer", "DistilBertTokenizerFast",
      "ElectraTokenizer",        "ElectraTokenizerFast", "MobileBertTokenizer", "MobileBertTokenizerFast",
      "PreTrainedTokenizerFast", "TokenizersBackend"};
  WordPieceOptions& options = description.options;
  const FrameTokens of_json{options.cls_token, options.sep_token};
  const Json config = read_folder_settings(directory, {"WordPiece", classes},
                                           {{"unk_token", &options.unk_token},
                                            {"cls_token", &options.cls_token},
                                            {"sep_token", &options.sep_token},
                                            {"pad_token", &options.pad_token},
                                            {"mask_token", &options.mask_token}},
                                           description.vocabulary, description.added, report);
  const std::filesystem::path file = directory / "tokenizer_config.json";
  if (!get_optional<bool>(config, "do_basic_tokenize", file).value_or(true)) {
    throw TokenizerError(file.string() + ": \"do_basic_tokenize\" is false, expected true");
  }
  if (description.tokenizer_json.is_null()) {
    set_from(options.do_lower_case, config, "do_lower_case", file);
    set_from(options.strip_accents, config, "strip_accents", file);
    set_from(options.tokenize_chinese_chars, config, "tokenize_chinese_chars", file);
  } else {
    settle_frame_tokens(description.tokenizer_json, config, of_json, options.cls_token, options.sep_token,
                        report);
    const bool json_lowers = options.do_lower_case;
    settle(options.do_lower_case, config, "do_lower_case", "lowercase", true, file, report);
    if (options.strip_accents == json_lowers) options.strip_accents.reset();  // the same as unset
    settle(options.strip_accents, config, "strip_accents", "strip_accents", {}, file, report);
    settle(options.tokenize_chinese_chars, config, "tokenize_chinese_chars", "handle_chinese_chars", true,
           file, report);
  }
  check_sides(description.tokenizer_json, config, directory, report);
  if (const auto words = config.find("never_split");
      words != config.end() && words->is_array() && !words->empty()) {
    report.notes.push_back(
        "tokenizer_config.json's never_split is not followed, as in transformers' fast "
        "tokenizer: name such words in added_tokens_decoder");
  }
  description.pair_types = gives_pair_types(config, report);
  note_capitals(description, report);
}

}  // namespace

struct WordPieceTokenizer::Impl {
  WordPieceOptions options;
  TokenTable table;
  AddedTokenMatcher raw_tokens;
  AddedTokenMatcher normalized_tokens;
  std::int32_t unk_id = 0;
  std::int32_t cls_id = 0;
  std::int32_t sep_id = 0;
  std::int32_t pad_id = 0;
  std::optional<std::int32_t> mask_id;
  std::int32_t second_type = 1;
  std::size_t longest_piece = 0;  // in bytes, the prefix of continuing pieces included

  void append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
    if (word.size() > options.max_input_chars_per_word) {
      ids.push_back(unk_id);
      return;
    }
    const TokenMap& vocabulary = table.vocabulary();
    const std::size_t first = ids.size();
    const std::string text = encode_utf8(word);
    std::string piece;
    for (std::size_t start = 0; start < text.size();) {
      piece.assign(start == 0 ? std::string_view() : std::string_view(options.continuing_subword_prefix));
      const std::size_t prefix = piece.size();
      const std::size_t room = longest_piece > prefix ? longest_piece - prefix : 0;
      piece.append(text, start, room);
      auto found = vocabulary.end();
      // No piece of the vocabulary ends within a character, so that cutting byte by byte finds whole
      // characters.
      for (; piece.size() > prefix; piece.pop_back()) {
        found = vocabulary.find(std::string_view(piece));
        if (found != vocabulary.end()) break;
      }
      if (found == vocabulary.end()) {
        ids.resize(first);
        ids.push_back(unk_id);
        return;
      }
      ids.push_back(found->second);
      start += piece.size() - prefix;
    }
  }

  void append_words(std::u32string_view text, std::vector<std::int32_t>& ids) const {
    std::size_t start = 0;
    const auto flush = [&](std::size_t end) {
      if (end > start) append_word(text.substr(start, end - start), ids);
    };
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool space = unicode::is_white_space(text[i]);
      if (!space && !unicode::is_punctuation(text[i])) continue;
      flush(i);
      if (!space) append_word(text.substr(i, 1), ids);
      start = i + 1;
    }
    flush(text.size());
  }
};

WordPieceTokenizer::WordPieceTokenizer(Vocabulary vocabulary, const WordPieceOptions& options,
                                       std::vector<AddedToken> added)
    : WordPieceTokenizer(std::move(vocabulary), options, std::move(added), true) {}

WordPieceTokenizer::WordPieceTokenizer(Vocabulary vocabulary, const WordPieceOptions& options,
                                       std::vector<AddedToken> added, bool pair_types) {
  auto impl = std::make_shared<Impl>();
  impl->second_type = pair_types ? 1 : 0;
  impl->options = options;
  for (const auto& [token, id] : vocabulary)
    impl->longest_piece = std::max(impl->longest_piece, token.size());
  impl->table = TokenTable(std::move(vocabulary), std::move(added));
  TokenTable& table = impl->table;
  impl->unk_id = table.add_special({.content = options.unk_token}, "unknown");
  if (!table.vocabulary().contains(options.unk_token)) {
    throw TokenizerError("expected the unknown token " + in_quotes(options.unk_token) +
                         " in the vocabulary itself");
  }
  impl->cls_id = table.add_special({.content = options.cls_token}, "first");
  impl->sep_id = table.add_special({.content = options.sep_token}, "separating");
  impl->pad_id = table.add_special({.content = options.pad_token}, "padding");
  if (table.find(options.mask_token))
    impl->mask_id = table.add_special({.content = options.mask_token}, "mask");

  for (const AddedToken& token : table.added()) {
    if (token.normalized) {
      require_utf8(token.content);
      impl->normalized_tokens.add(encode_utf8(normalize_text(decode_utf8(token.content), options)), token);
    } else {
      impl->raw_tokens.add(token.content, token);
    }
  }
  impl_ = std::move(impl);
}

WordPieceTokenizer WordPieceTokenizer::from_vocab(const std::filesystem::path& file,
                                                  const WordPieceOptions& options) {
  TokenizerReport unread;
  Vocabulary vocabulary = read_vocab_txt(file, unread);
  return naming_file(file, [&] { return WordPieceTokenizer(std::move(vocabulary), options); });
}

WordPieceTokenizer WordPieceTokenizer::from_tokenizer_json(const std::filesystem::path& file) {
  Description description = read_tokenizer_json(file);
  return naming_file(file, [&] {
    return WordPieceTokenizer(std::move(description.vocabulary), description.options,
                              std::move(description.added));
  });
}

WordPieceTokenizer WordPieceTokenizer::from_directory(const std::filesystem::path& directory,
                                                      TokenizerReport* report) {
  namespace fs = std::filesystem;
  std::error_code no_error;
  require_directory(directory);
  const fs::path tokenizer_json = directory / "tokenizer.json";
  const fs::path vocab_txt = directory / "vocab.txt";
  const bool has_json = fs::exists(tokenizer_json, no_error);
  const bool has_vocab = fs::exists(vocab_txt, no_error);
  if (!has_json && !has_vocab) {
    throw TokenizerError(directory.string() + ": expected tokenizer.json or vocab.txt, found neither");
  }
  TokenizerReport own;
  TokenizerReport& out = report != nullptr ? *report : own;
  out.kind = "WordPiece";
  Description description;
  if (has_json) {
    description = read_tokenizer_json(tokenizer_json);
    out.files.emplace_back("tokenizer.json");
    if (has_vocab) compare_vocab_txt(vocab_txt, description.vocabulary, description.added, out);
  } else {
    description.vocabulary = read_vocab_txt(vocab_txt, out);
    out.files.emplace_back("vocab.txt");
  }
  read_settings(directory, description, out);
  return naming_file(has_json ? tokenizer_json : vocab_txt, [&] {
    return WordPieceTokenizer(std::move(description.vocabulary), description.options,
                              std::move(description.added), description.pair_types);
  });
}

std::vector<std::int32_t> WordPieceTokenizer::tokenize_ids(std::string_view text) const {
  require_utf8(text);
  std::vector<std::int32_t> ids;
  for (const Stretch& raw : impl_->raw_tokens.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    const std::string normalized = encode_utf8(normalize_text(decode_utf8(raw.text), impl_->options));
    for (const Stretch& part : impl_->normalized_tokens.split(normalized)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        impl_->append_words(decode_utf8(part.text), ids);
      }
    }
  }
  return ids;
}

Encoding WordPieceTokenizer::encode(std::string_view a, std::optional<std::string_view> b,
                                    std::size_t max_length) const {
  const Frame frame{.first = impl_->cls_id, .last = impl_->sep_id, .second_type = impl_->second_type};
  return encode_in_frame(*this, frame, a, b, max_length);
}

std::int32_t WordPieceTokenizer::pad_id() const {
  return impl_->pad_id;
}
std::size_t WordPieceTokenizer::vocab_size() const {
  return impl_->table.id_end();
}
std::int32_t WordPieceTokenizer::cls_id() const {
  return impl_->cls_id;
}
std::int32_t WordPieceTokenizer::sep_id() const {
  return impl_->sep_id;
}
std::int32_t WordPieceTokenizer::unk_id() const {
  return impl_->unk_id;
}
std::optional<std::int32_t> WordPieceTokenizer::mask_id() const {
  return impl_->mask_id;
}
const WordPieceOptions& WordPieceTokenizer::options() const {
  return impl_->options;
}

std::optional<std::int32_t> WordPieceTokenizer::id_of(std::string_view token) const {
  return impl_->table.find(token);
}

const std::string& WordPieceTokenizer::token_of(std::int32_t id) const {
  return impl_->table.token_of(id);
}

std::string WordPieceTokenizer::normalize(std::string_view text) const {
  require_utf8(text);
  return encode_utf8(normalize_text(decode_utf8(text), impl_->options));
}

}  // namespace sparsegrad::finetune
