// What a process of a program prints when it ends without a run.
#pragma once

#include <string>

#include "programs/processes.hpp"

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace sparsegrad::finetune {

/// Prints the error that a process of the program ends with.
void tell_error(Processes& processes, const char* program, const std::string& text);

/// Prints what the parser of the command line ends a program with: its help, or what it does not understand. Returns the
/// exit status.
int tell_parsed(Processes& processes, const char* program, const CLI::App& app, const CLI::ParseError& ended);

}  // namespace sparsegrad::finetune
