// Where a task's examples come from.
#pragma once

#include <filesystem>
#include <string>

#include "data/glue.hpp"

namespace sparsegrad::finetune {

/// Name of the environment variable that holds the folder of the GLUE data.
inline constexpr const char* data_variable = "SPARSEGRAD_GLUE_DIR";

struct DataSource {
  std::string text;  ///< for people: "CoLA in /data/glue (--data), train.tsv"
  std::string kind;  ///< "option", "environment", "builtin"
  std::filesystem::path folder;
};

/// `option` (may be empty), else the folder that the environment names, else, for cola, the built-in set. Throws
/// DataError when there is none, or when a folder that was named lacks the task's files.
DataSource find_data(const Task& task, const std::filesystem::path& option, Split needed);

Dataset load_data(const Task& task, const DataSource& source, Split split);

}  // namespace sparsegrad::finetune
