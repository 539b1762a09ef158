// Standard output and standard error.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace sparsegrad::finetune {

/// For the start of a program: a standard stream that its caller closed is opened on nothing, else the next file that is
/// opened would be taken for it. A write beyond a limit on files (RLIMIT_FSIZE) or to a pipe without a reader becomes an
/// error like any other.
void prepare_console();

/// Writes on standard output. Never throws: a run does not end because nobody reads what it says. `lost_output` tells.
void print_text(std::string_view text);
/// Hands on what is still buffered.
void flush_output();
/// Flushes, and tells why not all that was printed could be written; empty where all was.
std::string lost_output();

/// Writes on standard error, if it can be.
void print_error_text(std::string_view text);

/// `print_text` of a formatted text.
template <class... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  print_text(fmt::format(format, std::forward<Args>(args)...));
}

/// `print_error_text` of a formatted text.
template <class... Args>
void print_error(fmt::format_string<Args...> format, Args&&... args) {
  print_error_text(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sparsegrad::finetune
