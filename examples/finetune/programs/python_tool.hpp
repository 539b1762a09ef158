// The project's Python scripts, called from the program.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sparsegrad::glue {

struct ToolResult {
  bool found = false;  ///< whether the script is there
  int status = -1;     ///< exit status; -1 when it could not be started or was ended by a signal
  std::string python;
  std::filesystem::path script;
};

/// The running program's file.
std::filesystem::path own_path();

/// Runs scripts/`name` of the project that the program was built in, with the project's .venv where there is one.
ToolResult run_python_tool(std::string_view name, const std::vector<std::string>& arguments);

}  // namespace sparsegrad::glue
