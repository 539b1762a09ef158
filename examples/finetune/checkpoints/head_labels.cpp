#include "checkpoints/head_labels.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;
using Names = std::vector<std::string>;

[[noreturn]] void fail(std::string_view source, const std::string& text) {
  throw ModelError(std::string(source) + ": " + text);
}

const json* find(const json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

/// Lower case without the signs that people put or leave out.
std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '-' || c == '_' || c == ' ') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return out;
}

std::optional<index_t> number_in(std::string_view text) {
  index_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// k of the names LABEL_k and k.
std::optional<index_t> number_of(std::string_view name) {
  const std::string plain = plain_name(name);
  constexpr std::string_view stem = "label";
  return number_in(plain.starts_with(stem) ? std::string_view(plain).substr(stem.size()) : plain);
}

/// Whether the names say nothing: LABEL_0, LABEL_1, ... or 0, 1, ... in this order.
bool only_counts(const Names& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (number_of(names[i]) != static_cast<index_t>(i)) return false;
  }
  return true;
}

std::string listed(const Names& names) {
  constexpr std::size_t most = 12;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i)
    text += (text.empty() ? "" : ", ") + names[i];
  if (names.size() > most) text += ", and " + std::to_string(names.size() - most) + " more";
  return text;
}

std::string outputs_text(index_t outputs, const std::string& what) {
  return std::to_string(outputs) + (outputs == 1 ? " output" : " outputs") +
         (what.empty() ? "" : " (" + what + ")");
}

/// "id2label": names by output.
std::optional<Names> names_by_output(const json& j, std::string_view source) {
  const json* field = find(j, "id2label");
  if (field == nullptr || field->empty()) return std::nullopt;
  if (!field->is_object())
    fail(source, "the field \"id2label\" is " + field->dump() + ", expected an object of names by number");
  Names names;
  for (std::size_t i = 0; i < field->size(); ++i) {
    const json* name = find(*field, std::to_string(i).c_str());
    if (name == nullptr || !(name->is_string() || name->is_number() || name->is_boolean()))
      fail(source, "\"id2label\" has no name for label " + std::to_string(i));
    names.push_back(name->is_string() ? name->get<std::string>() : name->dump());
  }
  return names;
}

/// "label2id": outputs by name.
std::optional<std::map<std::string, index_t>> outputs_by_name(const json& j, std::string_view source) {
  const json* field = find(j, "label2id");
  if (field == nullptr || field->empty()) return std::nullopt;
  if (!field->is_object())
    fail(source, "the field \"label2id\" is " + field->dump() + ", expected an object of numbers by name");
  std::map<std::string, index_t> outputs;
  for (const auto& [name, value] : field->items()) {
    std::optional<index_t> number;
    if (value.is_number_integer()) number = value.get<index_t>();
    if (value.is_string()) number = number_in(value.get<std::string>());
    if (!number || *number < 0)
      fail(source, "\"label2id\" has " + value.dump() + " for \"" + name + "\", expected the label's number");
    outputs[name] = *number;
  }
  return outputs;
}

/// The names of "label2id" in the order of their numbers; nothing where these are not 0, 1, ... once each.
std::optional<Names> in_order(const std::map<std::string, index_t>& outputs) {
  Names names(outputs.size());
  for (const auto& [name, number] : outputs) {
    if (static_cast<std::size_t>(number) >= names.size()) return std::nullopt;
    std::string& place = names[static_cast<std::size_t>(number)];
    if (!place.empty()) return std::nullopt;
    place = name;
  }
  return names;
}

/// "label2id" may have further names for an output, but must have these.
bool agree(const Names& names, const std::map<std::string, index_t>& outputs) {
  std::map<std::string, index_t> plain;
  for (const auto& [name, number] : outputs)
    plain[plain_name(name)] = number;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto at = plain.find(plain_name(names[i]));
    if (at == plain.end()) return false;
    // Of outputs that share a name, as transformers writes them too, one is there.
    const auto number = static_cast<std::size_t>(at->second);
    if (number != i && (number >= names.size() || plain_name(names[number]) != at->first)) return false;
  }
  return true;
}

/// The names that count.
Names names_of(const json& j, std::string_view source) {
  const std::optional<Names> by_output = names_by_output(j, source);
  const auto by_name = outputs_by_name(j, source);
  if (!by_name) return by_output.value_or(Names());
  const std::optional<Names> ordered = in_order(*by_name);
  if (!by_output) {
    if (!ordered)
      fail(source, "\"label2id\" is " + find(j, "label2id")->dump() + ", expected the numbers from 0 to " +
                       std::to_string(by_name->size() - 1) + ", once each");
    return *ordered;
  }
  if (agree(*by_output, *by_name)) return *by_output;
  if (ordered && only_counts(*ordered)) return *by_output;
  if (ordered && only_counts(*by_output) && ordered->size() == by_output->size()) return *ordered;
  fail(source, "\"id2label\" is " + find(j, "id2label")->dump() + " and \"label2id\" " +
                   find(j, "label2id")->dump() + ", which contradict each other: correct the wrong one");
}

/// Outputs by their number alone, as older versions of transformers also wrote it.
index_t count_of(const json& j, std::string_view source) {
  for (const char* key : {"num_labels", "_num_labels"}) {
    const json* count = find(j, key);
    if (count == nullptr) continue;
    if (!count->is_number_integer() || count->get<index_t>() < 1)
      fail(source,
           std::string("the field \"") + key + "\" is " + count->dump() + ", expected an integer > 0");
    return count->get<index_t>();
  }
  return 0;
}

/// The architecture, of those that call their head "classifier" too, whose head does not classify texts.
std::string other_use(const json& j) {
  const json* list = find(j, "architectures");
  if (list == nullptr || !list->is_array()) return "";
  for (const json& entry : *list) {
    if (!entry.is_string()) continue;
    const auto name = entry.get<std::string>();
    if (name.ends_with("ForTokenClassification") || name.ends_with("ForMultipleChoice")) return name;
  }
  return "";
}

/// What a cross-encoder of Sentence Transformers puts behind its outputs.
std::string activation_of(const json& j) {
  const json* name = find(j, "sbert_ce_default_activation_function");
  if (const json* field = find(j, "sentence_transformers"); field != nullptr && field->is_object()) {
    if (const json* newer = find(*field, "activation_fn")) name = newer;
  }
  if (name == nullptr || !name->is_string()) return "";
  auto text = name->get<std::string>();
  if (const std::size_t dot = text.rfind('.'); dot != std::string::npos) text.erase(0, dot + 1);
  return text == "Identity" ? "" : text;
}

/// For each of `wanted`, the place of its name among `found`; nothing unless they are the same names.
std::optional<std::vector<index_t>> rows_by_name(const Names& found, const Names& wanted) {
  std::vector<index_t> rows;
  for (const std::string& name : wanted) {
    const auto same = [&](const std::string& other) { return plain_name(other) == plain_name(name); };
    const auto at = std::find_if(found.begin(), found.end(), same);
    if (at == found.end()) return std::nullopt;
    rows.push_back(at - found.begin());
  }
  return rows;
}

/// For each class, the place of its number among the names; nothing unless they are all the numbers.
std::optional<std::vector<index_t>> rows_by_number(const Names& found) {
  std::vector<index_t> rows(found.size(), -1);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::optional<index_t> number = number_of(found[i]);
    if (!number || *number >= static_cast<index_t>(found.size())) return std::nullopt;
    rows[static_cast<std::size_t>(*number)] = static_cast<index_t>(i);
  }
  if (std::find(rows.begin(), rows.end(), -1) != rows.end()) return std::nullopt;
  return rows;
}

}  // namespace

std::string HeadLabels::unknown_kind(index_t outputs) const {
  if (!use.empty()) return "of " + use;
  if (problem == "multi_label_classification") return "multi-label classification";
  if (problem == "regression" && outputs != 1) return "a regression of several values";
  if (problem == "single_label_classification" && outputs == 1) return "a class by one output";
  if (outputs == 1 && !activation.empty()) return "a score by " + activation;
  return "";
}

HeadLabels parse_head_labels(const json& j, std::string_view source) {
  HeadLabels labels;
  labels.names = names_of(j, source);
  labels.count = static_cast<index_t>(labels.names.size());
  if (only_counts(labels.names)) labels.names.clear();
  if (const index_t count = count_of(j, source); count > 0 && count != labels.count) {
    if (!labels.names.empty())
      fail(source, "\"num_labels\" is " + std::to_string(count) + " and \"id2label\" names " +
                       outputs_text(labels.count, listed(labels.names)) + ": correct the wrong one");
    labels.count = count;
  }
  if (const json* problem = find(j, "problem_type")) {
    if (!problem->is_string() || (*problem != "regression" && *problem != "single_label_classification" &&
                                  *problem != "multi_label_classification")) {
      fail(source, "the field \"problem_type\" is " + problem->dump() +
                       ", expected \"single_label_classification\", \"regression\" or "
                       "\"multi_label_classification\"");
    }
    labels.problem = problem->get<std::string>();
  }
  labels.use = other_use(j);
  labels.activation = activation_of(j);
  return labels;
}

HeadMatch match_head(const HeadLabels& labels, index_t outputs, const ModelConfig& wanted) {
  const bool score = wanted.problem == ProblemType::regression;
  const std::string kind = labels.unknown_kind(outputs);
  HeadMatch match;
  const std::string names = listed(labels.names);
  match.found = outputs_text(outputs, kind.empty() ? names : names.empty() ? kind : kind + ": " + names);
  match.wanted = outputs_text(wanted.num_labels, score ? "a score" : listed(wanted.label_names));
  match.usable = kind.empty() && outputs == wanted.num_labels && (outputs == 1) == score;
  match.by_number = match.usable && !score && labels.names.empty();
  if (!match.usable || score || labels.names.empty()) return match;
  std::optional<std::vector<index_t>> rows;
  if (!wanted.label_names.empty()) rows = rows_by_name(labels.names, wanted.label_names);
  if (!rows) rows = rows_by_number(labels.names);
  if (!rows && wanted.label_names.empty()) return match;
  match.usable = rows.has_value();
  match.only_names = !match.usable;
  if (rows && !std::is_sorted(rows->begin(), rows->end())) match.rows = std::move(*rows);
  return match;
}

}  // namespace sparsegrad::finetune
