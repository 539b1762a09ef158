#include "data/label.hpp"

#include <sparsegrad/core/float_bits.hpp>

#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "data/records.hpp"
#include "data/text_file.hpp"

namespace sparsegrad::finetune {
namespace {

bool is_boolean(const std::string& plain) {
  return plain == "true" || plain == "false";
}

}  // namespace

std::optional<float> parse_label(const Task& task, std::string_view text) {
  const std::string plain = plain_name(text);
  if (is_boolean(plain) && task.num_labels == 2 && task.label_names.empty())
    return plain == "true" ? 1.0F : 0.0F;
  for (const auto* names : {&task.label_names, &task.class_names}) {
    for (std::size_t i = 0; i < names->size(); ++i) {
      if (plain == plain_name((*names)[i])) return static_cast<float>(i);
    }
  }
  float value = 0.0F;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !sparsegrad::is_finite(value))
    return std::nullopt;
  if (value < task.label_min || value > task.label_max) return std::nullopt;
  if (!task.regression && value != std::floor(value)) return std::nullopt;
  return value;
}

std::string label_error(const Task& task, std::string_view text) {
  std::string expected;
  for (const std::string_view name : task.label_names)
    expected += fmt::format("{}{}", expected.empty() ? "one of " : ", ", name);
  if (task.label_names.empty()) {
    expected = fmt::format("a {} from {} to {}", task.regression ? "number" : "whole number", task.label_min,
                           task.label_max);
  }
  std::string out = fmt::format("expected a label, {}, found {}", expected, in_quotes({std::string(text)}));
  if (!task.label_names.empty())
    out += fmt::format(" (numbers from 0 to {} stand for them in this order)", task.label_max);
  if (is_boolean(plain_name(text)) && !task.label_names.empty())
    out += ". true and false do not say which: write the names";
  if (text == "-1") out += ". -1 stands for a label that is not public: is this a test split?";
  if (text == "-") out += ". \"-\" stands for no label, as the annotators disagree: leave such rows out";
  return out;
}

}  // namespace sparsegrad::finetune
