// Prose of a page of results, at the width that tests/build/check_markdown.py asks for.
#pragma once

#include <cstddef>
#include <sstream>
#include <string>

namespace sparsegrad::bench {

/// The words of `text` in lines of at most 100 columns, without a newline at the end.
inline std::string wrapped(const std::string& text) {
  std::istringstream words(text);
  std::string result;
  std::size_t column = 0;
  for (std::string word; words >> word;) {
    const bool starts_line = column == 0 || column + 1 + word.size() > 100;
    if (!result.empty()) result += starts_line ? "\n" : " ";
    column = (starts_line ? 0 : column + 1) + word.size();
    result += word;
  }
  return result;
}

}  // namespace sparsegrad::bench
