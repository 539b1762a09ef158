// What the command line's parser lets pass: values that are empty, and numbers that their types do not have.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace sparsegrad::finetune {

/// What is wrong where an option's value is empty (`--data ''`; of `--data=` the parser would take the next word); ""
/// where none is.
std::string empty_value(int argc, const char* const* argv);

/// What is wrong where the first word is no command, or there is none: the commands there are; "" where nothing is.
std::string no_command(const CLI::App& app, int argc, const char* const* argv);

/// Refuses, in all options of a command, numbers that are not decimal (0x10), whole numbers that their type would wrap
/// around or cut (-1 as 2^64 - 1), and numbers so small that they would be 0. 010 is 10.
void check_numbers(CLI::App& command);

/// Refuses what an `int` does not hold, of an option that is from 0.
void check_int(CLI::Option& option);

/// Refuses what is not a share above 0 and at most 1.
void check_share(CLI::Option& option);

}  // namespace sparsegrad::finetune
