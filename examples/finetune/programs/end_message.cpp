#include "programs/end_message.hpp"

#include <sstream>

#include <CLI/CLI.hpp>

#include "training/output/console.hpp"

namespace sparsegrad::finetune {

void tell_error(Processes& processes, const char* program, const std::string& text) {
  if (const auto name = processes.name_for(text, true)) print_error("{}{}: {}\n", program, *name, text);
}

int tell_parsed(Processes& processes, const char* program, const CLI::App& app,
                const CLI::ParseError& ended) {
  std::ostringstream out;
  std::ostringstream error;
  const bool failed = app.exit(ended, out, error) != 0;
  const std::string text = failed ? error.str() : out.str();
  const auto name = processes.name_for(text, failed);
  if (name && failed) print_error("{}{}", name->empty() ? "" : program + *name + ": ", text);
  if (name && !failed) print("{}", text);
  return failed ? 2 : 0;
}

}  // namespace sparsegrad::finetune
