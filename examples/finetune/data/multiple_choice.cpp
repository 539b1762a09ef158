#include "data/multiple_choice.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "data/data_error.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;

constexpr const char* adapters_kind = "instruction, output, answer of multiple choice";
constexpr const char* stem_kind = "question with stem and choices, answerKey";
constexpr const char* lists_kind = "question, choices with text and label, answerKey";
constexpr const char* numbered_kind = "question, choices, answer by its number";

constexpr std::string_view format_mark = "format:";

/// A field of an object, or null.
const json* find(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto at = object.find(name);
  return at == object.end() ? nullptr : &*at;
}

std::string text_of(const json& object, const char* name) {
  const json* value = find(object, name);
  if (value == nullptr || !value->is_string()) {
    throw DataError(fmt::format("the field \"{}\" of a record of multiple choice is {}, expected a text",
                                name, value == nullptr ? "missing" : value->type_name()));
  }
  return value->get<std::string>();
}

const json& list_of(const json& object, const char* name) {
  const json* value = find(object, name);
  if (value == nullptr || !value->is_array()) {
    throw DataError(fmt::format("the field \"{}\" of a record of multiple choice is {}, expected a list",
                                name, value == nullptr ? "missing" : value->type_name()));
  }
  return *value;
}

/// Throws DataError for a label of two choices, by which neither is known.
void require_distinct(const std::vector<std::string>& labels) {
  for (auto at = labels.begin(); at != labels.end(); ++at) {
    if (std::find(labels.begin(), at, *at) == at) continue;
    throw DataError(fmt::format("two choices have the label \"{}\", expected a label for each: {}", *at,
                                fmt::join(labels, ", ")));
  }
}

/// The names that an instruction of LLM-Adapters ends with: "Answer format: answer1/answer2".
std::vector<std::string> format_of(const std::string& instruction) {
  std::vector<std::string> names;
  const std::size_t mark = instruction.rfind(format_mark);
  if (mark == std::string::npos) return names;
  std::string name;
  for (const char c : instruction.substr(mark + format_mark.size()) + "/") {
    if (c == '/') {
      names.push_back(std::move(name));
      name.clear();
    } else if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
      name += c;
    }
  }
  return names;
}

ChoiceRecord read_adapters(const json& record) {
  ChoiceRecord found;
  found.question = text_of(record, "instruction");
  if (const json* input = find(record, "input"); input != nullptr && !input->is_null()) {
    if (const std::string text = text_of(record, "input"); !text.empty()) found.question += "\n\n" + text;
  }
  const std::string output = text_of(record, "output");
  const std::string answer = text_of(record, "answer");
  const std::vector<std::string> names = format_of(text_of(record, "instruction"));
  require_distinct(names);
  const auto right = std::find(names.begin(), names.end(), answer);
  if (right == names.end()) {
    throw DataError(fmt::format(
        "the answer is \"{}\", expected one of those that the instruction ends with, \"Answer format: "
        "answer1/answer2\"; found {}",
        answer, names.empty() ? "none" : fmt::format("{}", fmt::join(names, "/"))));
  }
  const std::size_t at = output.rfind(answer);
  if (at == std::string::npos)
    throw DataError(fmt::format("the output is \"{}\", expected the answer \"{}\" in it", output, answer));
  found.choices.right = static_cast<std::size_t>(right - names.begin());
  for (const std::string& name : names)
    found.choices.texts.push_back(output.substr(0, at) + name + output.substr(at + answer.size()));
  return found;
}

/// The right one by its label; a record with an empty answerKey says none.
void choose(ChoiceRecord& found, const std::vector<std::string>& labels, const std::string& key) {
  require_distinct(labels);
  if (key.empty()) {
    found.choices = {};
    return;
  }
  const auto right = std::find(labels.begin(), labels.end(), key);
  if (right == labels.end()) {
    throw DataError(fmt::format("answerKey is \"{}\", expected one of the labels of the choices: {}", key,
                                fmt::join(labels, ", ")));
  }
  found.choices.right = static_cast<std::size_t>(right - labels.begin());
}

ChoiceRecord read_stem(const json& record) {
  ChoiceRecord found;
  const json* question = find(record, "question");
  if (question == nullptr || !question->is_object())
    throw DataError("the field \"question\" is not an object of stem and choices, as the first record's is");
  found.question = text_of(*question, "stem");
  std::vector<std::string> labels;
  for (const json& choice : list_of(*question, "choices")) {
    found.choices.texts.push_back(text_of(choice, "text"));
    labels.push_back(text_of(choice, "label"));
  }
  choose(found, labels, text_of(record, "answerKey"));
  return found;
}

ChoiceRecord read_lists(const json& record) {
  ChoiceRecord found;
  found.question = text_of(record, find(record, "question") != nullptr ? "question" : "question_stem");
  const json* choices = find(record, "choices");
  if (choices == nullptr) throw DataError("the record has no field \"choices\", which the first one has");
  std::vector<std::string> labels;
  for (const char* name : {"text", "label"}) {
    for (const json& one : list_of(*choices, name)) {
      if (!one.is_string())
        throw DataError(fmt::format("a choice's {} is {}, expected a text", name, one.type_name()));
      (name[0] == 't' ? found.choices.texts : labels).push_back(one.get<std::string>());
    }
  }
  if (labels.size() != found.choices.texts.size()) {
    throw DataError(fmt::format("{} texts of choices have {} labels, expected one for each",
                                found.choices.texts.size(), labels.size()));
  }
  choose(found, labels, text_of(record, "answerKey"));
  return found;
}

ChoiceRecord read_numbered(const json& record) {
  ChoiceRecord found;
  found.question = text_of(record, "question");
  for (const json& one : list_of(record, "choices")) {
    if (!one.is_string()) throw DataError(fmt::format("a choice is {}, expected a text", one.type_name()));
    found.choices.texts.push_back(one.get<std::string>());
  }
  const json* answer = find(record, "answer");
  const std::size_t count = found.choices.texts.size();
  if (answer == nullptr || !answer->is_number_unsigned() || answer->get<std::uint64_t>() >= count) {
    throw DataError(
        fmt::format("the field \"answer\" is {}, expected a number of one of the {} choices, from 0",
                    answer == nullptr ? "missing" : answer->dump(), count));
  }
  found.choices.right = static_cast<std::size_t>(answer->get<std::uint64_t>());
  return found;
}

}  // namespace

std::string multiple_choice_kind(const json& first) {
  const auto is_text = [&](const char* name) {
    const json* value = find(first, name);
    return value != nullptr && value->is_string();
  };
  if (is_text("instruction") && is_text("output") && is_text("answer") &&
      format_of(first["instruction"].get<std::string>()).size() > 1)
    return adapters_kind;
  const json* question = find(first, "question");
  if (question != nullptr && find(*question, "choices") != nullptr && find(first, "answerKey") != nullptr)
    return stem_kind;
  const json* choices = find(first, "choices");
  if (choices == nullptr || (!is_text("question") && !is_text("question_stem"))) return "";
  if (choices->is_object() && find(first, "answerKey") != nullptr) return lists_kind;
  if (choices->is_array() && is_text("question") && find(first, "answer") != nullptr &&
      first["answer"].is_number())
    return numbered_kind;
  return "";
}

ChoiceRecord read_choices(const std::string& kind, const json& record) {
  ChoiceRecord found = kind == adapters_kind ? read_adapters(record)
                       : kind == stem_kind   ? read_stem(record)
                       : kind == lists_kind  ? read_lists(record)
                                             : read_numbered(record);
  const std::vector<std::string>& texts = found.choices.texts;
  if (texts.size() == 1) throw DataError("a question has a single choice, expected two or more");
  if (std::any_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); }))
    throw DataError("a choice is empty, expected a text");
  return found;
}

}  // namespace sparsegrad::finetune
