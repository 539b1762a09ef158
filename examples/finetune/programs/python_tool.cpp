#include "programs/python_tool.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace sparsegrad::glue {

namespace {

namespace fs = std::filesystem;

/// Empty when the program is outside of the project.
fs::path find_script(std::string_view name) {
  std::error_code none;
  for (fs::path folder = own_path().parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    const fs::path script = folder / "scripts" / name;
    if (fs::exists(script, none)) return script;
  }
  return {};
}

int run_and_wait(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) return -1;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

fs::path own_path() {
  std::error_code none;
  return fs::read_symlink("/proc/self/exe", none);
}

ToolResult run_python_tool(std::string_view name, const std::vector<std::string>& arguments) {
  ToolResult result;
  result.script = find_script(name);
  result.found = !result.script.empty();
  if (!result.found) return result;
  const fs::path own = result.script.parent_path().parent_path() / ".venv" / "bin" / "python3";
  result.python = fs::exists(own) ? own.string() : "python3";
  std::vector<std::string> words{result.python, result.script.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::fflush(stdout);
  result.status = run_and_wait(words);
  return result;
}

}  // namespace sparsegrad::glue
