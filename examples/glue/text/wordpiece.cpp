#include "text/wordpiece.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "text/unicode.hpp"
#include "text/utf8.hpp"

namespace sparsegrad::glue {
namespace {

using Json = nlohmann::json;
using Vocabulary = std::vector<std::pair<std::string, std::int32_t>>;

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using TokenMap = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

std::string in_quotes(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

/// A stretch of text: the id of an added token, or nothing for text still to be split.
struct Stretch {
  std::string_view text;
  std::optional<std::int32_t> id;
};

// Characters of well-formed UTF-8, for the flags of added tokens.
char32_t first_character(std::string_view text) {
  std::size_t end = 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    ++end;
  return decode_utf8(text.substr(0, end)).front();
}

std::size_t last_character_start(std::string_view text) {
  std::size_t start = text.size() - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80U)
    --start;
  return start;
}

std::size_t character_length(std::string_view text) {
  std::size_t end = 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    ++end;
  return end;
}

/// Finds added tokens in text: leftmost first, the longest of those that start at the same place.
class AddedTokenMatcher {
 public:
  void add(std::string pattern, const AddedToken& token) {
    if (pattern.empty()) return;
    auto& bucket = by_first_byte_[static_cast<unsigned char>(pattern.front())];
    bucket.push_back({std::move(pattern), token});
    std::stable_sort(bucket.begin(), bucket.end(),
                     [](const Entry& x, const Entry& y) { return x.pattern.size() > y.pattern.size(); });
    empty_ = false;
  }

  std::vector<Stretch> split(std::string_view text) const {
    std::vector<Stretch> out;
    if (text.empty()) return out;
    std::size_t done = 0;
    for (std::size_t at = 0; !empty_ && at < text.size();) {
      const Entry* entry = find_at(text, at);
      if (entry == nullptr) {
        ++at;
        continue;
      }
      std::size_t start = at;
      std::size_t stop = at + entry->pattern.size();
      at = stop;
      const AddedToken& token = entry->token;
      if (token.single_word && (touches_word_before(text, start) || touches_word_after(text, stop))) continue;
      if (token.lstrip) start = std::max(strip_end(text.substr(0, start)), done);
      if (token.rstrip) stop += leading_space(text.substr(stop));
      if (done < start) out.push_back({text.substr(done, start - done), std::nullopt});
      out.push_back({text.substr(start, stop - start), token.id});
      done = stop;
    }
    if (done < text.size()) out.push_back({text.substr(done), std::nullopt});
    return out;
  }

 private:
  struct Entry {
    std::string pattern;
    AddedToken token;
  };

  const Entry* find_at(std::string_view text, std::size_t at) const {
    for (const Entry& entry : by_first_byte_[static_cast<unsigned char>(text[at])]) {
      if (text.substr(at, entry.pattern.size()) == entry.pattern) return &entry;
    }
    return nullptr;
  }

  static bool touches_word_before(std::string_view text, std::size_t start) {
    if (start == 0) return false;
    const std::string_view before = text.substr(0, start);
    return unicode::is_word_character(first_character(before.substr(last_character_start(before))));
  }

  static bool touches_word_after(std::string_view text, std::size_t stop) {
    return stop < text.size() && unicode::is_word_character(first_character(text.substr(stop)));
  }

  static std::size_t strip_end(std::string_view text) {
    while (!text.empty()) {
      const std::size_t start = last_character_start(text);
      if (!unicode::is_white_space(first_character(text.substr(start)))) break;
      text = text.substr(0, start);
    }
    return text.size();
  }

  static std::size_t leading_space(std::string_view text) {
    std::size_t length = 0;
    while (length < text.size() && unicode::is_white_space(first_character(text.substr(length)))) {
      length += character_length(text.substr(length));
    }
    return length;
  }

  std::array<std::vector<Entry>, 256> by_first_byte_;
  bool empty_ = true;
};

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

std::u32string decode_or_throw(std::string_view text) {
  try {
    return decode_utf8(text);
  } catch (const std::runtime_error& error) {
    throw TokenizerError(error.what());
  }
}

// ---- Files
// ---------------------------------------------------------------------------------------------------------

std::string read_file(const std::filesystem::path& file) {
  std::error_code no_error;
  if (!std::filesystem::exists(file, no_error)) throw TokenizerError(file.string() + ": no such file");
  std::ifstream stream(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream.good() && !stream.eof()) throw TokenizerError(file.string() + ": cannot be read");
  if (text.empty()) throw TokenizerError(file.string() + ": is empty");
  return text;
}

/// Parses JSON; a key that stands twice in an object (a token in a vocabulary) is an error, not an
/// overwriting.
Json read_json(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  std::vector<std::unordered_set<std::string>> keys;  // of the objects being read, the innermost last
  const auto refuse_duplicates = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw TokenizerError(file.string() + ": " + in_quotes(parsed.get<std::string>()) +
                           " stands twice in one object");
    }
    return true;
  };
  try {
    return Json::parse(text, refuse_duplicates);
  } catch (const Json::exception& error) {
    throw TokenizerError(file.string() + ": expected JSON, found " + error.what());
  }
}

/// The value at `key` of an object, where it is there and not null. Throws when it has another type than T.
template <class T>
std::optional<T> get_optional(const Json& object, const char* key, const std::filesystem::path& file) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw TokenizerError(file.string() + ": \"" + key + "\" has an unexpected type, " + found->type_name());
  }
}

template <class T>
void set_from(T& out, const Json& object, const char* key, const std::filesystem::path& file) {
  if (auto value = get_optional<std::conditional_t<std::is_same_v<T, std::optional<bool>>, bool, T>>(
          object, key, file)) {
    out = *value;
  }
}

std::int32_t to_id(const Json& value, std::string_view token, const std::filesystem::path& file) {
  if (value.is_number_integer()) {
    const auto id = value.get<std::int64_t>();
    if (id >= 0 && id < std::numeric_limits<std::int32_t>::max()) return static_cast<std::int32_t>(id);
  }
  throw TokenizerError(file.string() + ": the id of " + in_quotes(token) + " is " + value.dump() +
                       ", expected a whole number from 0 to 2147483646");
}

const Json& object_at(const Json& parent, const char* key, const std::filesystem::path& file) {
  const auto found = parent.is_object() ? parent.find(key) : parent.end();
  if (found == parent.end() || !found->is_object()) {
    throw TokenizerError(file.string() + ": expected an object \"" + key + "\", found " +
                         (found == parent.end() ? "none" : found->type_name()));
  }
  return *found;
}

AddedToken read_added_token(const Json& entry, std::int32_t id, const std::filesystem::path& file) {
  AddedToken token;
  token.id = id;
  set_from(token.content, entry, "content", file);
  if (token.content.empty())
    throw TokenizerError(file.string() + ": the added token " + std::to_string(id) + " is empty");
  set_from(token.single_word, entry, "single_word", file);
  set_from(token.lstrip, entry, "lstrip", file);
  set_from(token.rstrip, entry, "rstrip", file);
  token.normalized = !get_optional<bool>(entry, "special", file).value_or(false);
  set_from(token.normalized, entry, "normalized", file);
  return token;
}

std::string type_of(const Json& component) {
  if (component.is_null()) return "none";
  if (!component.is_object()) return "no object";
  const auto type = component.find("type");
  return type != component.end() && type->is_string() ? type->get<std::string>() : "one without a type";
}

void expect_type(const Json& root, const char* key, std::initializer_list<std::string_view> accepted,
                 const std::filesystem::path& file) {
  const auto found = root.find(key);
  const std::string type = found == root.end() ? "none" : type_of(*found);
  if (std::find(accepted.begin(), accepted.end(), type) != accepted.end()) return;
  throw TokenizerError(file.string() + ": expected the " + key + " " + std::string(*accepted.begin()) +
                       ", found " + type);
}

/// What the files of a directory say, before it is checked.
struct Description {
  Vocabulary vocabulary;
  WordPieceOptions options;
  std::vector<AddedToken> added;
};

/// The special tokens around one sentence or a pair, written as "[CLS]:0 A:0 [SEP]:0".
std::string template_text(const Json& items) {
  std::string out;
  for (const Json& item : items) {
    for (const auto& [kind, value] : item.items()) {
      out += (out.empty() ? "" : " ") + value.value("id", "?") + ":" +
             std::to_string(value.value("type_id", -1));
    }
  }
  return out;
}

void check_post_processor(const Json& root, Description& description, const std::filesystem::path& file) {
  expect_type(root, "post_processor", {"TemplateProcessing", "BertProcessing", "none"}, file);
  const auto found = root.find("post_processor");
  if (found == root.end() || found->is_null()) return;
  WordPieceOptions& options = description.options;
  try {
    if (found->at("type") == "BertProcessing") {
      options.cls_token = found->at("cls").at(0).get<std::string>();
      options.sep_token = found->at("sep").at(0).get<std::string>();
      return;
    }
    const Json& single = found->at("single");
    const auto one_entry = [](const Json& item) { return item.is_object() && item.size() == 1; };
    if (single.is_array() && single.size() == 3 && one_entry(single.front()) && one_entry(single.back())) {
      options.cls_token = single.front().begin()->value("id", options.cls_token);
      options.sep_token = single.back().begin()->value("id", options.sep_token);
    }
    const std::string expected_single = options.cls_token + ":0 A:0 " + options.sep_token + ":0";
    const std::string expected_pair = expected_single + " B:1 " + options.sep_token + ":1";
    const std::string found_single = template_text(single);
    const std::string found_pair = template_text(found->at("pair"));
    if (found_single != expected_single || found_pair != expected_pair) {
      throw TokenizerError(file.string() + ": expected BERT's templates " + in_quotes(expected_single) +
                           " and " + in_quotes(expected_pair) + ", found " + in_quotes(found_single) +
                           " and " + in_quotes(found_pair));
    }
  } catch (const Json::exception& error) {
    throw TokenizerError(file.string() + ": malformed post_processor: " + error.what());
  }
}

Description read_tokenizer_json(const std::filesystem::path& file) {
  const Json root = read_json(file);
  Description description;
  const Json& model = object_at(root, "model", file);
  // Files of old versions do not name the model's type.
  const std::string model_type =
      get_optional<std::string>(model, "type", file).value_or(model.contains("merges") ? "BPE" : "WordPiece");
  if (model_type != "WordPiece") {
    throw TokenizerError(file.string() + ": expected a WordPiece model, found " + model_type);
  }
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
  check_post_processor(root, description, file);

  const Json& vocabulary = object_at(model, "vocab", file);
  description.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    description.vocabulary.emplace_back(token, to_id(id, token, file));
  }
  if (const auto added = root.find("added_tokens"); added != root.end() && !added->is_null()) {
    if (!added->is_array())
      throw TokenizerError(file.string() + ": expected \"added_tokens\" to be an array");
    for (const Json& entry : *added) {
      if (!entry.is_object())
        throw TokenizerError(file.string() + ": expected every added token to be an object");
      const std::string content = get_optional<std::string>(entry, "content", file).value_or("");
      description.added.push_back(
          read_added_token(entry, to_id(entry.value("id", Json()), content, file), file));
    }
  }
  return description;
}

Vocabulary read_vocab_txt(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  if (const auto at = find_invalid_utf8(text)) {
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(*at), '\n');
    throw TokenizerError(file.string() + ":" + std::to_string(line) +
                         ": expected UTF-8, found an invalid byte");
  }
  Vocabulary vocabulary;
  std::unordered_map<std::string, std::size_t> lines;
  std::string_view rest = text;
  for (std::size_t line = 1; !rest.empty(); ++line) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view token = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (token.ends_with('\r')) token.remove_suffix(1);
    const std::string place = file.string() + ":" + std::to_string(line) + ": ";
    if (token.empty()) throw TokenizerError(place + "expected a token, found an empty line");
    const auto [earlier, is_new] = lines.emplace(token, line);
    if (!is_new) {
      throw TokenizerError(place + in_quotes(token) + " stands already in line " +
                           std::to_string(earlier->second));
    }
    vocabulary.emplace_back(token, static_cast<std::int32_t>(line - 1));
  }
  return vocabulary;
}

/// A special token stands in tokenizer_config.json as a string or as an object with a "content".
void read_special_token(std::string& out, const Json& config, const char* key,
                        const std::filesystem::path& file) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  if (found->is_object()) {
    set_from(out, *found, "content", file);
  } else {
    set_from(out, config, key, file);
  }
}

/// What tokenizer_config.json says goes before what tokenizer.json says.
void read_tokenizer_config(const std::filesystem::path& file, Description& description) {
  const Json config = read_json(file);
  if (!config.is_object())
    throw TokenizerError(file.string() + ": expected a JSON object, found " + config.type_name());
  constexpr std::array<std::string_view, 10> classes{
      "BertTokenizer",           "BertTokenizerFast",    "DistilBertTokenizer", "DistilBertTokenizerFast",
      "ElectraTokenizer",        "ElectraTokenizerFast", "MobileBertTokenizer", "MobileBertTokenizerFast",
      "PreTrainedTokenizerFast", "TokenizersBackend"};
  const std::string tokenizer_class =
      get_optional<std::string>(config, "tokenizer_class", file).value_or("BertTokenizer");
  if (std::find(classes.begin(), classes.end(), tokenizer_class) == classes.end()) {
    throw TokenizerError(file.string() +
                         ": expected a WordPiece tokenizer such as BertTokenizer, found the class " +
                         tokenizer_class);
  }
  if (!get_optional<bool>(config, "do_basic_tokenize", file).value_or(true)) {
    throw TokenizerError(file.string() + ": \"do_basic_tokenize\" is false, expected true");
  }
  if (const auto side = get_optional<std::string>(config, "truncation_side", file);
      side && *side != "right") {
    throw TokenizerError(file.string() + ": expected the \"truncation_side\" right, found " + *side);
  }
  WordPieceOptions& options = description.options;
  set_from(options.do_lower_case, config, "do_lower_case", file);
  set_from(options.strip_accents, config, "strip_accents", file);
  set_from(options.tokenize_chinese_chars, config, "tokenize_chinese_chars", file);
  read_special_token(options.unk_token, config, "unk_token", file);
  read_special_token(options.cls_token, config, "cls_token", file);
  read_special_token(options.sep_token, config, "sep_token", file);
  read_special_token(options.pad_token, config, "pad_token", file);
  read_special_token(options.mask_token, config, "mask_token", file);
  const auto added = config.find("added_tokens_decoder");
  if (added == config.end() || added->is_null()) return;
  for (const auto& [key, entry] : added->items()) {
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) {
      throw TokenizerError(file.string() + ": expected ids as keys of \"added_tokens_decoder\", found " +
                           in_quotes(key));
    }
    AddedToken token = read_added_token(entry, static_cast<std::int32_t>(std::stol(key)), file);
    const auto same = std::find_if(description.added.begin(), description.added.end(),
                                   [&](const AddedToken& other) { return other.content == token.content; });
    if (same == description.added.end()) {
      description.added.push_back(std::move(token));
    } else {
      *same = std::move(token);
    }
  }
}

/// Runs `make`; what it finds wrong gets the file's name before it.
template <class Make>
WordPieceTokenizer naming_file(const std::filesystem::path& file, Make make) {
  try {
    return make();
  } catch (const TokenizerError& error) {
    throw TokenizerError(file.string() + ": " + error.what());
  }
}

}  // namespace

struct WordPieceTokenizer::Impl {
  WordPieceOptions options;
  TokenMap vocabulary;
  TokenMap added_ids;
  std::unordered_map<std::int32_t, std::string> tokens;
  AddedTokenMatcher raw_tokens;
  AddedTokenMatcher normalized_tokens;
  std::int32_t unk_id = 0;
  std::int32_t cls_id = 0;
  std::int32_t sep_id = 0;
  std::int32_t pad_id = 0;
  std::optional<std::int32_t> mask_id;
  std::size_t vocab_size = 0;
  std::size_t longest_piece = 0;  // in bytes, the prefix of continuing pieces included

  std::optional<std::int32_t> find(std::string_view token) const {
    if (const auto added = added_ids.find(token); added != added_ids.end()) return added->second;
    if (const auto piece = vocabulary.find(token); piece != vocabulary.end()) return piece->second;
    return std::nullopt;
  }

  void append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
    if (word.size() > options.max_input_chars_per_word) {
      ids.push_back(unk_id);
      return;
    }
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
                                       std::vector<AddedToken> added) {
  auto impl = std::make_shared<Impl>();
  impl->options = options;
  if (vocabulary.empty()) throw TokenizerError("the vocabulary is empty");
  const auto name_id = [&](std::int32_t id, const std::string& token) {
    if (id < 0)
      throw TokenizerError("the id of " + in_quotes(token) + " is " + std::to_string(id) + ", below 0");
    const auto [entry, is_new] = impl->tokens.emplace(id, token);
    if (!is_new && entry->second != token) {
      throw TokenizerError("the id " + std::to_string(id) + " belongs to both " + in_quotes(entry->second) +
                           " and " + in_quotes(token));
    }
    impl->vocab_size = std::max(impl->vocab_size, static_cast<std::size_t>(id) + 1);
  };
  impl->vocabulary.reserve(vocabulary.size());
  for (auto& [token, id] : vocabulary) {
    if (const auto at = find_invalid_utf8(token))
      throw TokenizerError("the token of id " + std::to_string(id) + " is not UTF-8");
    name_id(id, token);
    impl->longest_piece = std::max(impl->longest_piece, token.size());
    if (!impl->vocabulary.emplace(token, id).second)
      throw TokenizerError(in_quotes(token) + " stands twice in the vocabulary");
  }
  for (const AddedToken& token : added) {
    name_id(token.id, token.content);
    if (const auto piece = impl->vocabulary.find(token.content);
        piece != impl->vocabulary.end() && piece->second != token.id) {
      throw TokenizerError("the added token " + in_quotes(token.content) + " has the id " +
                           std::to_string(token.id) + " but in the vocabulary it has " +
                           std::to_string(piece->second));
    }
    if (!impl->added_ids.emplace(token.content, token.id).second) {
      throw TokenizerError("the token " + in_quotes(token.content) + " is added twice");
    }
  }

  const auto special = [&](const std::string& token, const char* role) {
    const auto id = impl->find(token);
    if (!id) {
      throw TokenizerError("expected the " + std::string(role) + " token " + in_quotes(token) +
                           " among the " + std::to_string(impl->tokens.size()) + " tokens, found none");
    }
    if (impl->added_ids.emplace(token, *id).second) added.push_back({.content = token, .id = *id});
    return *id;
  };
  impl->unk_id = special(options.unk_token, "unknown");
  if (!impl->vocabulary.contains(options.unk_token)) {
    throw TokenizerError("expected the unknown token " + in_quotes(options.unk_token) +
                         " in the vocabulary itself");
  }
  impl->cls_id = special(options.cls_token, "first");
  impl->sep_id = special(options.sep_token, "separating");
  impl->pad_id = special(options.pad_token, "padding");
  if (impl->find(options.mask_token)) impl->mask_id = special(options.mask_token, "mask");

  for (const AddedToken& token : added) {
    if (token.normalized) {
      impl->normalized_tokens.add(encode_utf8(normalize_text(decode_or_throw(token.content), options)),
                                  token);
    } else {
      impl->raw_tokens.add(token.content, token);
    }
  }
  impl_ = std::move(impl);
}

WordPieceTokenizer WordPieceTokenizer::from_vocab(const std::filesystem::path& file,
                                                  const WordPieceOptions& options) {
  Vocabulary vocabulary = read_vocab_txt(file);
  return naming_file(file, [&] { return WordPieceTokenizer(std::move(vocabulary), options); });
}

WordPieceTokenizer WordPieceTokenizer::from_tokenizer_json(const std::filesystem::path& file) {
  Description description = read_tokenizer_json(file);
  return naming_file(file, [&] {
    return WordPieceTokenizer(std::move(description.vocabulary), description.options,
                              std::move(description.added));
  });
}

WordPieceTokenizer WordPieceTokenizer::from_directory(const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  std::error_code no_error;
  if (!fs::is_directory(directory, no_error)) {
    throw TokenizerError(directory.string() + ": expected a model's directory, found " +
                         (fs::exists(directory, no_error) ? "a file" : "nothing"));
  }
  const fs::path tokenizer_json = directory / "tokenizer.json";
  const fs::path vocab_txt = directory / "vocab.txt";
  const bool has_json = fs::exists(tokenizer_json, no_error);
  if (!has_json && !fs::exists(vocab_txt, no_error)) {
    throw TokenizerError(directory.string() + ": expected tokenizer.json or vocab.txt, found neither");
  }
  Description description;
  if (has_json) {
    description = read_tokenizer_json(tokenizer_json);
  } else {
    description.vocabulary = read_vocab_txt(vocab_txt);
  }
  const fs::path config = directory / "tokenizer_config.json";
  if (fs::exists(config, no_error)) read_tokenizer_config(config, description);
  return naming_file(has_json ? tokenizer_json : vocab_txt, [&] {
    return WordPieceTokenizer(std::move(description.vocabulary), description.options,
                              std::move(description.added));
  });
}

std::vector<std::int32_t> WordPieceTokenizer::tokenize_ids(std::string_view text) const {
  if (find_invalid_utf8(text)) decode_or_throw(text);
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
  const std::size_t special_tokens = b ? 3 : 2;
  if (max_length < special_tokens) {
    throw TokenizerError("expected a max_length of at least " + std::to_string(special_tokens) +
                         ", the special tokens of " + (b ? "a pair" : "a sentence") + ", found " +
                         std::to_string(max_length));
  }
  const std::vector<std::int32_t> ids_a = tokenize_ids(a);
  const std::vector<std::int32_t> ids_b = b ? tokenize_ids(*b) : std::vector<std::int32_t>();
  const std::size_t room = max_length - special_tokens;
  const PairLengths kept = b ? truncate_longest_first(ids_a.size(), ids_b.size(), room)
                             : PairLengths{std::min(ids_a.size(), room), 0};
  Encoding out;
  out.ids.reserve(kept.a + kept.b + special_tokens);
  out.ids.push_back(impl_->cls_id);
  out.ids.insert(out.ids.end(), ids_a.begin(), ids_a.begin() + static_cast<std::ptrdiff_t>(kept.a));
  out.ids.push_back(impl_->sep_id);
  out.type_ids.assign(out.ids.size(), 0);
  if (b) {
    out.ids.insert(out.ids.end(), ids_b.begin(), ids_b.begin() + static_cast<std::ptrdiff_t>(kept.b));
    out.ids.push_back(impl_->sep_id);
    out.type_ids.resize(out.ids.size(), 1);
  }
  return out;
}

std::int32_t WordPieceTokenizer::pad_id() const {
  return impl_->pad_id;
}
std::size_t WordPieceTokenizer::vocab_size() const {
  return impl_->vocab_size;
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
  return impl_->find(token);
}

const std::string& WordPieceTokenizer::token_of(std::int32_t id) const {
  const auto found = impl_->tokens.find(id);
  if (found == impl_->tokens.end()) {
    throw TokenizerError("expected the id of one of the " + std::to_string(impl_->tokens.size()) +
                         " tokens, found " + std::to_string(id));
  }
  return found->second;
}

std::string WordPieceTokenizer::normalize(std::string_view text) const {
  return encode_utf8(normalize_text(decode_or_throw(text), impl_->options));
}

}  // namespace sparsegrad::glue
