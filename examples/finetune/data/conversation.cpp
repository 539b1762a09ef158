#include "data/conversation.hpp"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "data/records.hpp"
#include "data/text_file.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;

/// An object of the file, with the line at which it begins.
struct RecordText {
  std::size_t line = 1;
  std::string_view text;
};

/// What is wrong, at a line.
[[noreturn]] void fail(const std::filesystem::path& file, std::size_t line, const std::string& what) {
  throw DataError(fmt::format("{}:{}: {}", file.string(), line, what));
}

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front()))
    text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back()))
    text.remove_suffix(1);
  return text;
}

/// The elements of one JSON array, without a look at what they hold.
std::vector<RecordText> elements_of(const std::filesystem::path& file, std::string_view text) {
  std::vector<RecordText> records;
  std::size_t line = 1;
  std::size_t begin = 0;
  std::size_t begin_line = 0;
  int depth = 0;
  bool in_text = false;
  bool ended = false;
  bool after_comma = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (in_text) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_text = false;
      continue;
    }
    if (ended && !is_blank(c)) fail(file, line, "there is more text behind the end of the JSON array");
    if (depth == 1 && begin_line == 0 && !is_blank(c) && c != ']') {
      begin = i;
      begin_line = line;
      after_comma = false;
    }
    const bool closes = c == ']' || c == '}';
    if (depth == 1 && closes && after_comma)
      fail(file, line, "the JSON array ends behind a comma: an element is missing, or the comma is too much");
    if (depth == 1 && begin_line != 0 && (c == ',' || closes)) {
      records.push_back({begin_line, trimmed(text.substr(begin, i - begin))});
      begin_line = 0;
      after_comma = c == ',';
    }
    if (c == '"') in_text = true;
    if (c == '[' || c == '{') ++depth;
    if (closes && --depth == 0) ended = true;
  }
  if (!ended) fail(file, line, "the JSON array has no end: the file was cut short, or a bracket is missing");
  return records;
}

std::vector<RecordText> records_of(const std::filesystem::path& file, std::string_view text) {
  if (const std::string_view all = trimmed(text); all.starts_with('[')) return elements_of(file, text);
  // An object that is written over several lines is no JSON lines file.
  std::vector<RecordText> records;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    ++line;
    if (const std::string_view row = trimmed(text.substr(begin, end - begin)); !row.empty())
      records.push_back({line, row});
    begin = end + 1;
  }
  return records;
}

/// Why the text of a record is no JSON, from its parser.
std::string why_no_json(std::string_view text, const json::exception& error) {
  const auto* syntax = dynamic_cast<const json::parse_error*>(&error);
  if (syntax == nullptr) return error.what();
  if (syntax->byte > text.size()) return "it has no end: is the file cut short?";
  // Behind place and kind of the error; what was read last may be long.
  std::string_view what = error.what();
  what = what.substr(0, what.find("; last read: "));
  if (const std::size_t reason = what.find(": "); reason != std::string_view::npos)
    what.remove_prefix(reason + 2);
  return fmt::format("byte {}: {}", syntax->byte, what);
}

json parse(const std::filesystem::path& file, const RecordText& record) {
  constexpr int most_nested = 512;
  std::vector<std::set<std::string>> keys;  // of the objects that are not at their end, by depth
  const auto watch = [&](int depth, json::parse_event_t event, const json& value) {
    if (depth > most_nested) fail(file, record.line, "the record nests more than 512 deep");
    const auto at = static_cast<std::size_t>(depth);
    if (event == json::parse_event_t::object_start) {
      keys.resize(std::max(keys.size(), at + 2));
      keys[at + 1].clear();
    } else if (event == json::parse_event_t::key) {
      const auto& name = value.get_ref<const std::string&>();
      if (!keys[at].insert(name).second) {
        fail(file, record.line,
             fmt::format("expected each key of an object once, found {} twice", in_quotes({name})));
      }
    }
    return true;
  };
  json object;
  try {
    object = json::parse(record.text, watch);
  } catch (const json::exception& error) {
    fail(file, record.line,
         fmt::format("expected a JSON object on this line (JSON lines) or one array of objects in the file, "
                     "found {}; {}",
                     in_quotes({std::string(record.text)}), why_no_json(record.text, error)));
  }
  if (!object.is_object())
    fail(file, record.line, fmt::format("expected a JSON object, found {}", object.type_name()));
  return object;
}

std::string names_of(const json& object) {
  std::string names;
  for (const auto& [key, value] : object.items())
    names += (names.empty() ? "" : ", ") + key;
  return names.empty() ? "none" : names;
}

/// Reads the records of one file one after another.
class Reader {
 public:
  Reader(const std::filesystem::path& file, const ConversationFormat& format)
      : file_(file), format_(format) {}

  Conversations read() {
    const std::string text = read_text(file_);
    const std::vector<RecordText> records = records_of(file_, text);
    if (records.empty()) throw DataError(file_.string() + ": expected records, found none");
    std::function<void(const json&)> convert;
    for (const RecordText& record : records) {
      line_ = record.line;
      const json object = parse(file_, record);
      if (!convert) convert = converter(object);
      convert(object);
    }
    if (found_.examples.empty()) {
      std::string what = fmt::format("{}: expected answers, found none in all of its records, {}",
                                     file_.string(), records.size());
      if (found_.synthetic > 0) what += fmt::format(", of which {} are synthetic trees", found_.synthetic);
      throw DataError(what);
    }
    return std::move(found_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { finetune::fail(file_, line_, what); }

  const json& field(const json& object, const std::string& name) const {
    const auto at = object.find(name);
    if (at == object.end()) {
      fail(fmt::format(
          "the record has no field \"{}\", which the first one has or was asked for; its fields are {}", name,
          names_of(object)));
    }
    return *at;
  }
  std::string text_of(const json& object, const std::string& name) const {
    const json& value = field(object, name);
    if (!value.is_string())
      fail(fmt::format("the field \"{}\" is {}, expected a text", name, value.type_name()));
    return value.get<std::string>();
  }

  /// Adds a conversation, unless it has no answer; what stands behind the last answer is left out.
  void add(Conversation messages) {
    while (!messages.empty() && messages.back().role != Role::assistant)
      messages.pop_back();
    if (messages.empty() || trimmed(messages.back().text).empty()) {
      ++found_.unanswered;
      return;
    }
    Role expected = Role::user;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const Role role = messages[i].role;
      if (i == 0 && role == Role::system) continue;
      if (role != expected) {
        fail(fmt::format("message {} is the {}'s, expected the {}'s: user and assistant take turns", i + 1,
                         to_string(role), to_string(expected)));
      }
      expected = role == Role::user ? Role::assistant : Role::user;
    }
    found_.examples.push_back(std::move(messages));
  }
  void add_pair(std::string question, std::string answer) {
    add({{Role::user, std::move(question)}, {Role::assistant, std::move(answer)}});
  }

  std::function<void(const json&)> pair_of(const std::string& question, const std::string& answer) {
    found_.kind = question + ", " + answer;
    return [this, question, answer](const json& object) {
      add_pair(text_of(object, question), text_of(object, answer));
    };
  }

  void add_choices(const std::string& kind, const json& object) {
    ChoiceRecord record;
    try {
      record = read_choices(kind, object);
    } catch (const DataError& error) {
      fail(error.what());
    }
    if (record.choices.texts.empty()) {
      ++found_.unanswered;
      return;
    }
    const std::size_t before = found_.examples.size();
    add_pair(std::move(record.question), record.choices.texts[record.choices.right]);
    if (found_.examples.size() > before) found_.choices.push_back(std::move(record.choices));
  }

  /// What makes conversations of records like this one.
  std::function<void(const json&)> converter(const json& first) {
    if (!format_.question.empty() || !format_.answer.empty()) {
      if (format_.question.empty() || format_.answer.empty())
        throw DataError("the fields of question and answer go together: one of the two is not named");
      return pair_of(format_.question, format_.answer);
    }
    if (const std::string kind = multiple_choice_kind(first); !kind.empty()) {
      found_.kind = kind;
      return [this, kind](const json& object) { add_choices(kind, object); };
    }
    const auto has = [&](const char* name) { return first.contains(name); };
    if (has("messages") || has("conversations")) {
      const bool sharegpt = !has("messages");
      found_.kind = sharegpt ? "conversations" : "messages";
      return [this, sharegpt](const json& object) { add_messages(object, sharegpt); };
    }
    if (has("prompt") && first["prompt"].is_object()) {
      found_.kind = "OpenAssistant trees";
      return [this](const json& object) { add_tree(object); };
    }
    if (has("instruction") && has("output")) {
      found_.kind = "instruction, input, output";
      return [this](const json& object) {
        std::string question = text_of(object, "instruction");
        if (object.contains("input") && !object["input"].is_null()) {
          if (const std::string input = text_of(object, "input"); !input.empty()) question += "\n\n" + input;
        }
        add_pair(std::move(question), text_of(object, "output"));
      };
    }
    if (has("question") && has("answer")) return pair_of("question", "answer");
    for (const char* answer : {"completion", "response"})
      if (has("prompt") && has(answer)) return pair_of("prompt", answer);
    if (has("input") && has("output")) {
      found_.kind = "input, output";
      return [this](const json& object) {
        const std::string input = text_of(object, "input");
        add_pair(without_markers(input), text_of(object, "output"));
      };
    }
    fail(fmt::format(
        "the fields are {}; expected question and answer; instruction, input and output; prompt and "
        "completion; "
        "input and output; messages; conversations; a tree of OpenAssistant; or, of multiple choice, "
        "question, "
        "choices and answerKey. Or name them: --fields QUESTION,ANSWER",
        names_of(first)));
  }

  static std::string without_markers(std::string_view text) {
    text = trimmed(text);
    constexpr std::string_view human = "### Human:";
    constexpr std::string_view assistant = "### Assistant:";
    if (!text.starts_with(human)) return std::string(text);
    text.remove_prefix(human.size());
    if (text.ends_with(assistant)) text.remove_suffix(assistant.size());
    return std::string(trimmed(text));
  }

  void add_messages(const json& object, bool sharegpt) {
    const json& list = field(object, sharegpt ? "conversations" : "messages");
    if (!list.is_array()) fail(fmt::format("the messages are {}, expected a list of them", list.type_name()));
    Conversation messages;
    for (const json& entry : list) {
      if (!entry.is_object()) fail(fmt::format("a message is {}, expected an object", entry.type_name()));
      const std::string role = text_of(entry, sharegpt ? "from" : "role");
      Message message;
      if (role == "system")
        message.role = Role::system;
      else if (role == "user" || role == "human" || role == "prompter")
        message.role = Role::user;
      else if (role == "assistant" || role == "gpt")
        message.role = Role::assistant;
      else
        fail(fmt::format("a message's role is \"{}\", expected system, user or assistant", role));
      message.text = text_of(entry, sharegpt ? "value" : "content");
      messages.push_back(std::move(message));
    }
    add(std::move(messages));
  }

  void add_tree(const json& object) {
    const json& root = field(object, "prompt");
    if (!root.is_object())
      fail(fmt::format("the field \"prompt\" is {}, expected a message's object", root.type_name()));
    if (root.value("synthetic", json(false)) == json(true)) {
      ++found_.synthetic;
      return;
    }
    Conversation path;
    const std::size_t before = found_.examples.size();
    walk(root, path);
    if (found_.examples.size() == before) ++found_.unanswered;
  }

  /// A message and what follows it: the reply of the lowest rank, or every one.
  void walk(const json& message, Conversation& path) {
    const std::string role = text_of(message, "role");
    if (role != "prompter" && role != "assistant")
      fail(fmt::format("a message's role is \"{}\", expected prompter or assistant", role));
    path.push_back({role == "prompter" ? Role::user : Role::assistant, text_of(message, "text")});
    std::vector<const json*> replies = replies_of(message);
    const auto rank = [](const json* reply) {
      const auto at = reply->find("rank");
      return at != reply->end() && at->is_number() ? at->get<double>() : 1e9;
    };
    std::stable_sort(replies.begin(), replies.end(),
                     [&](const json* a, const json* b) { return rank(a) < rank(b); });
    if (!format_.all_paths && replies.size() > 1) replies.erase(replies.begin() + 1, replies.end());
    // A question without a reply ends a path as well as a last answer does, which stands one message before it.
    const bool answered_here = path.back().role == Role::assistant && !has_answer_below(replies);
    if (answered_here) add(path);
    for (const json* reply : replies)
      if (!answered_here) walk(*reply, path);
    path.pop_back();
  }
  /// The replies to a message that are not deleted.
  std::vector<const json*> replies_of(const json& message) const {
    std::vector<const json*> replies;
    const auto list = message.find("replies");
    if (list == message.end() || list->is_null()) return replies;
    if (!list->is_array())
      fail(fmt::format("the field \"replies\" is {}, expected a list of messages", list->type_name()));
    for (const json& reply : *list)
      if (reply.is_object() && reply.value("deleted", json(false)) != json(true)) replies.push_back(&reply);
    return replies;
  }
  /// Whether a question among these replies of an answer has itself an answer.
  bool has_answer_below(const std::vector<const json*>& replies) const {
    return std::any_of(replies.begin(), replies.end(),
                       [&](const json* question) { return !replies_of(*question).empty(); });
  }

  const std::filesystem::path& file_;
  const ConversationFormat& format_;
  std::size_t line_ = 1;
  Conversations found_;
};

}  // namespace

std::string_view to_string(Role role) {
  if (role == Role::system) return "system";
  return role == Role::user ? "user" : "assistant";
}

Conversations read_conversations(const std::filesystem::path& file, const ConversationFormat& format) {
  return Reader(file, format).read();
}

}  // namespace sparsegrad::finetune
