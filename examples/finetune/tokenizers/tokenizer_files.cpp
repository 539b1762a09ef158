#include "tokenizers/tokenizer_files.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <unordered_set>

#include "tokenizers/open_file.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune::tokenizer_files {
namespace {

std::string type_of(const Json& component) {
  if (component.is_null()) return "none";
  if (!component.is_object()) return "no object";
  const auto type = component.find("type");
  return type != component.end() && type->is_string() ? type->get<std::string>() : "one without a type";
}

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

/// The id of a token in a tokenizer.json, as the package `tokenizers` looks it up.
std::optional<std::int32_t> find_id(std::string_view token, const Vocabulary& vocabulary,
                                    const std::vector<AddedToken>& added) {
  for (const auto& [content, id] : vocabulary)
    if (content == token) return id;
  for (const AddedToken& known : added)
    if (known.content == token) return known.id;
  return std::nullopt;
}

/// Refuses the processor of the other family, whose pairs are not those that the model was trained on.
[[noreturn]] void refuse_processor(const Json& found, const Templates& templates, const Path& file) {
  Json wanted = {{"type", templates.processor},
                 {"sep", found.value("sep", Json())},
                 {"cls", found.value("cls", Json())}};
  if (templates.processor == "RobertaProcessing") {
    wanted["trim_offsets"] = true;
    wanted["add_prefix_space"] = false;
  }
  throw TokenizerError(
      file.string() + ": the post_processor is " + found.value("type", "") +
      ", which joins the sentences of a pair otherwise than " + std::string(templates.model) +
      " does (BERT: one separator, type 1 for the second; RoBERTa: two separators, type 0). Where the "
      "model was trained on " +
      std::string(templates.model) + "'s pairs, or on single sentences, put in its place: " + wanted.dump());
}

}  // namespace

void require_directory(const Path& directory) {
  std::error_code no_error;
  if (std::filesystem::is_directory(directory, no_error)) return;
  throw TokenizerError(directory.string() + ": expected a model's directory, found " +
                       (std::filesystem::exists(directory, no_error) ? "a file" : "nothing"));
}

std::string read_file(const Path& file) {
  std::error_code no_error;
  if (!std::filesystem::exists(file, no_error)) throw TokenizerError(file.string() + ": no such file");
  if (std::filesystem::is_directory(file, no_error))
    throw TokenizerError(file.string() + ": expected a file, found a folder");
  std::ifstream stream = open_file<TokenizerError>(file);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream.good() && !stream.eof()) throw TokenizerError(file.string() + ": cannot be read");
  if (text.empty()) throw TokenizerError(file.string() + ": is empty");
  return text;
}

std::vector<std::string> read_lines(const Path& file, TokenizerReport* report) {
  const std::string bytes = read_file(file);
  if (bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF"))
    throw TokenizerError(file.string() + ": expected UTF-8, found UTF-16: save it as UTF-8");
  if (const auto at = find_invalid_utf8(bytes)) {
    const auto line = 1 + std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(*at), '\n');
    throw TokenizerError(file.string() + ":" + std::to_string(line) +
                         ": expected UTF-8, found an invalid byte");
  }
  std::string_view rest = bytes;
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  if (rest.starts_with(byte_order_mark)) {
    rest.remove_prefix(byte_order_mark.size());
    if (report != nullptr) {
      report->notes.push_back(file.filename().string() +
                              " begins with a byte order mark, which is left out; transformers would take it "
                              "for a part of the first line: save the file without");
    }
  }
  std::vector<std::string> lines;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    lines.emplace_back(line.substr(0, line.find_last_not_of(" \t\r\f\v") + 1));
  }
  return lines;
}

Json read_json(const Path& file) {
  const std::string text = read_file(file);
  std::vector<std::unordered_set<std::string>> keys;  // of the objects being read, the innermost last
  constexpr int most_nested = 256;  // copying and printing a value take a stack that grows with its depth
  const auto refuse_duplicates = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > most_nested)
      throw TokenizerError(file.string() + ": expected values nested at most 256 deep, found deeper ones");
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

const Json& object_at(const Json& parent, const char* key, const Path& file) {
  const auto found = parent.is_object() ? parent.find(key) : parent.end();
  if (found == parent.end() || !found->is_object()) {
    throw TokenizerError(file.string() + ": expected an object \"" + key + "\", found " +
                         (found == parent.end() ? "none" : found->type_name()));
  }
  return *found;
}

void expect_type(const Json& root, const char* key, std::initializer_list<std::string_view> accepted,
                 const Path& file) {
  const auto found = root.find(key);
  const std::string type = found == root.end() ? "none" : type_of(*found);
  if (std::find(accepted.begin(), accepted.end(), type) != accepted.end()) return;
  std::string expected;
  for (const std::string_view one : accepted)
    expected += (expected.empty() ? "" : " or ") + std::string(one);
  throw TokenizerError(file.string() + ": expected the " + key + " " + expected + ", found " + type);
}

std::string model_type(const Json& root, const Path& file) {
  const Json& model = object_at(root, "model", file);
  // Files of old versions do not name the model's type.
  return get_optional<std::string>(model, "type", file)
      .value_or(model.contains("merges") ? "BPE" : "WordPiece");
}

std::int32_t to_id(const Json& value, std::string_view token, const Path& file) {
  if (value.is_number_integer()) {
    const auto id = value.get<std::int64_t>();
    if (id >= 0 && id < std::numeric_limits<std::int32_t>::max()) return static_cast<std::int32_t>(id);
  }
  throw TokenizerError(file.string() + ": the id of " + in_quotes(token) + " is " + value.dump() +
                       ", expected a whole number from 0 to 2147483646");
}

AddedToken read_added_token(const Json& entry, std::int32_t id, const Path& file) {
  AddedToken token;
  token.id = id;
  set_from(token.content, entry, "content", file);
  if (token.content.empty())
    throw TokenizerError(file.string() + ": the added token " + std::to_string(id) + " is empty");
  set_from(token.single_word, entry, "single_word", file);
  set_from(token.lstrip, entry, "lstrip", file);
  set_from(token.rstrip, entry, "rstrip", file);
  set_from(token.special, entry, "special", file);
  token.normalized = !token.special;
  set_from(token.normalized, entry, "normalized", file);
  return token;
}

Vocabulary read_vocabulary(const Json& object, const Path& file) {
  Vocabulary vocabulary;
  vocabulary.reserve(object.size());
  for (const auto& [token, id] : object.items())
    vocabulary.emplace_back(token, to_id(id, token, file));
  return vocabulary;
}

std::vector<AddedToken> read_added_tokens(const Json& root, const Path& file) {
  std::vector<AddedToken> out;
  const auto added = root.find("added_tokens");
  if (added == root.end() || added->is_null()) return out;
  if (!added->is_array()) throw TokenizerError(file.string() + ": expected \"added_tokens\" to be an array");
  for (const Json& entry : *added) {
    if (!entry.is_object())
      throw TokenizerError(file.string() + ": expected every added token to be an object");
    const std::string content = get_optional<std::string>(entry, "content", file).value_or("");
    out.push_back(read_added_token(entry, to_id(entry.value("id", Json()), content, file), file));
  }
  return out;
}

Merges read_merges(const Json& array, const Path& file) {
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

void read_post_processor(const Json& root, const Templates& templates, const Vocabulary& vocabulary,
                         const std::vector<AddedToken>& added, std::string& cls_token, std::string& sep_token,
                         const Path& file) {
  const auto found = root.find("post_processor");
  for (const std::string_view other : {"BertProcessing", "RobertaProcessing"}) {
    if (found != root.end() && other != templates.processor && type_of(*found) == other)
      refuse_processor(*found, templates, file);
  }
  expect_type(root, "post_processor", {"TemplateProcessing", templates.processor, "none"}, file);
  if (found == root.end() || found->is_null()) return;
  // The package `tokenizers` takes the ids that stand here, whatever the vocabulary says.
  const auto check_id = [&](const std::string& token, const Json& id) {
    const std::optional<std::int32_t> known = find_id(token, vocabulary, added);
    if (!known || to_id(id, token, file) == *known) return;
    throw TokenizerError(file.string() + ": the post_processor has the id " + id.dump() + " for " +
                         in_quotes(token) + ", whose id in the vocabulary is " + std::to_string(*known) +
                         "; correct the one that is wrong");
  };
  try {
    if (found->at("type") == templates.processor) {
      cls_token = found->at("cls").at(0).get<std::string>();
      sep_token = found->at("sep").at(0).get<std::string>();
      check_id(cls_token, found->at("cls").at(1));
      check_id(sep_token, found->at("sep").at(1));
      return;
    }
    const Json& single = found->at("single");
    const auto one_entry = [](const Json& item) { return item.is_object() && item.size() == 1; };
    if (single.is_array() && single.size() == 3 && one_entry(single.front()) && one_entry(single.back())) {
      cls_token = single.front().begin()->value("id", cls_token);
      sep_token = single.back().begin()->value("id", sep_token);
    }
    const std::string expected_single = cls_token + ":0 A:0 " + sep_token + ":0";
    std::string expected_pair = expected_single;
    for (const char c : templates.rest_of_pair)
      expected_pair += c == '%' ? sep_token : std::string(1, c);
    const std::string found_single = template_text(single);
    const std::string found_pair = template_text(found->at("pair"));
    if (found_single != expected_single || found_pair != expected_pair) {
      throw TokenizerError(file.string() + ": expected " + std::string(templates.model) + "'s templates " +
                           in_quotes(expected_single) + " and " + in_quotes(expected_pair) + ", found " +
                           in_quotes(found_single) + " and " + in_quotes(found_pair));
    }
    for (const std::string& token : {cls_token, sep_token}) {
      const auto special = found->find("special_tokens");
      if (special == found->end() || !special->contains(token)) continue;
      const Json& ids = special->at(token).at("ids");
      if (!ids.is_array() || ids.size() != 1) {
        throw TokenizerError(file.string() + ": the post_processor has the ids " + ids.dump() + " for " +
                             in_quotes(token) + ", expected one");
      }
      check_id(token, ids[0]);
    }
  } catch (const Json::exception& error) {
    throw TokenizerError(file.string() + ": malformed post_processor: " + error.what());
  }
}

}  // namespace sparsegrad::finetune::tokenizer_files
