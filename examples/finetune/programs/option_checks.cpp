#include "programs/option_checks.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>

#include <fmt/format.h>

namespace sparsegrad::glue {

namespace {

std::string not_in_range(const std::string& text, const std::string& least, const std::string& most) {
  return fmt::format("is {}, expected a whole number from {} to {}", text, least, most);
}

// Each of these reads as the parser does; what is no number it refuses itself.

std::string check_signed(const std::string& text) {
  errno = 0;
  (void)std::strtoll(text.c_str(), nullptr, 0);
  if (errno != ERANGE) return "";
  using Limits = std::numeric_limits<std::int64_t>;
  return not_in_range(text, std::to_string(Limits::min()), std::to_string(Limits::max()));
}

std::string check_unsigned(const std::string& text) {
  errno = 0;
  (void)std::strtoull(text.c_str(), nullptr, 0);
  if (errno != ERANGE && text.find('-') == std::string::npos) return "";
  return not_in_range(text, "0", std::to_string(std::numeric_limits<std::uint64_t>::max()));
}

std::string check_float(const std::string& text) {
  errno = 0;
  const double value = std::strtod(text.c_str(), nullptr);
  if (errno != ERANGE || value != 0) return "";
  return fmt::format("is {}, which is 0 in double precision; expected 0 or a larger number", text);
}

}  // namespace

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
    if (type == "INT") option->check(check_signed);
    if (type == "UINT") option->check(check_unsigned);
    if (type == "FLOAT") option->check(check_float);
  }
}

void check_share(CLI::Option& option) {
  option.check([](const std::string& text) -> std::string {
    const double value = std::strtod(text.c_str(), nullptr);
    if (value > 0 && value <= 1) return "";
    return fmt::format("is {}, expected a share above 0 and at most 1", text);
  });
}

}  // namespace sparsegrad::glue
