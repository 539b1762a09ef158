#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "data/glue.hpp"

namespace sparsegrad::finetune {

/// A label as files write it: the name of one of the task's classes in any case (Task::label_names or class_names), a
/// class's number, or a score in range. Of two classes that files write as 0 and 1, also "false" and "true".
/// Nothing when it is none of these. Numbers count the classes in the order of the task's names, as in the files of
/// Hugging Face's `datasets`.
std::optional<float> parse_label(const Task& task, std::string_view text);

/// What to say of a text that is no label.
std::string label_error(const Task& task, std::string_view text);

}  // namespace sparsegrad::finetune
