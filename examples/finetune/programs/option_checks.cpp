#include "programs/option_checks.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>

#include <fmt/format.h>

namespace sparsegrad::finetune {

namespace {

std::string not_in_range(const std::string& text, const std::string& least, const std::string& most) {
  return fmt::format("is {}, expected a whole number from {} to {}", text, least, most);
}

// Each of these takes decimal numbers alone: the parser would read 010 as 8 and 0x10 as 16.

/// Brings a whole number to the form that the parser reads as it is meant.
std::string read_whole_number(std::string& text) {
  const bool sign = text.starts_with('-') || text.starts_with('+');
  const std::size_t first = sign ? 1 : 0;
  if (text.size() == first || text.find_first_not_of("0123456789", first) != std::string::npos)
    return fmt::format("is {}, expected a whole number in decimal digits", text);
  const std::size_t digit = std::min(text.find_first_not_of('0', first), text.size() - 1);
  text = (text.starts_with('-') ? "-" : "") + text.substr(digit);
  return "";
}

std::string check_signed(std::string& text) {
  if (std::string trouble = read_whole_number(text); !trouble.empty()) return trouble;
  errno = 0;
  (void)std::strtoll(text.c_str(), nullptr, 10);
  if (errno != ERANGE) return "";
  using Limits = std::numeric_limits<std::int64_t>;
  return not_in_range(text, std::to_string(Limits::min()), std::to_string(Limits::max()));
}

std::string check_unsigned(std::string& text) {
  if (std::string trouble = read_whole_number(text); !trouble.empty()) return trouble;
  errno = 0;
  (void)std::strtoull(text.c_str(), nullptr, 10);
  if (errno != ERANGE && text.find('-') == std::string::npos) return "";
  return not_in_range(text, "0", std::to_string(std::numeric_limits<std::uint64_t>::max()));
}

std::string check_float(std::string& text) {
  errno = 0;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool hexadecimal = text.find_first_of("xX") != std::string::npos;
  if (end != text.c_str() + text.size() || text.empty() || hexadecimal)
    return fmt::format("is {}, expected a decimal number", text);
  if (errno != ERANGE || value != 0) return "";
  return fmt::format("is {}, which is 0 in double precision; expected 0 or a larger number", text);
}

}  // namespace

std::string no_command(const CLI::App& app, int argc, const char* const* argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  std::string names;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == word) return "";
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  for (const std::string_view plain : {"-h", "--help", "--version"})
    if (word == plain) return "";
  const std::string expected =
      fmt::format("expected a command first, one of {}; --help explains them", names);
  if (argc <= 1) return expected;
  return fmt::format("found '{}', {}", word, expected);
}

std::string empty_value(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (!word.starts_with("--")) continue;
    const bool empty_behind_name = word.ends_with('=') && word.find('=') + 1 == word.size();
    const bool empty_word =
        i + 1 < argc && argv[i + 1][0] == '\0' && word.find('=') == std::string_view::npos;
    if (empty_behind_name || empty_word) {
      return fmt::format("{} is empty, expected a value (or no such option)", word.substr(0, word.find('=')));
    }
  }
  return "";
}

void check_numbers(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const std::string type = option->get_type_name();
    if (type == "INT") option->transform(CLI::Validator(check_signed, ""));
    if (type == "UINT") option->transform(CLI::Validator(check_unsigned, ""));
    if (type == "FLOAT") option->check(CLI::Validator(check_float, ""));
  }
}

void check_int(CLI::Option& option) {
  option.check([](const std::string& text) -> std::string {
    using Limits = std::numeric_limits<int>;
    errno = 0;
    const long long value = std::strtoll(text.c_str(), nullptr, 10);
    if (errno != ERANGE && value >= Limits::min() && value <= Limits::max()) return "";
    return not_in_range(text, "0", std::to_string(Limits::max()));
  });
}

void check_share(CLI::Option& option) {
  option.check([](const std::string& text) -> std::string {
    const double value = std::strtod(text.c_str(), nullptr);
    if (value > 0 && value <= 1) return "";
    return fmt::format("is {}, expected a share above 0 and at most 1", text);
  });
}

}  // namespace sparsegrad::finetune
