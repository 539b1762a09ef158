// Text whose fields are separated by tabs, commas or semicolons.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"

namespace sparsegrad::finetune {

/// How fields are told apart. Without quoting, as in GLUE's files, a `"` is a character like others. With it, as CSV
/// writers do it (RFC 4180), a field in quotes may hold separators and line ends, and `""` is a quote.
struct Delimiting {
  char separator = '\t';
  bool quoted = false;
};

/// "tab", "comma" or "semicolon".
std::string_view name_of_separator(char separator);

/// Whether text separated by `separator` was written with quoting, as far as can be told. It must hold as CSV to the
/// end, and have what text without quoting would not have: quotes around all names of the first row; or quoted fields
/// with separators or line ends, without which rows would not be equally long; or, with neither, a `""` or a CR in a
/// quoted field.
bool looks_quoted(std::string_view text, char separator);

/// The rows of a text, one after another.
class DelimitedText {
 public:
  /// `text` must outlive the reader. `file` is for errors alone. A line ends with LF or CR LF.
  DelimitedText(std::string_view text, Delimiting form, std::filesystem::path file);

  /// Reads the fields of the next row; false at the end. Throws DataError where a quote is never closed or goes on
  /// after its end.
  bool next(std::vector<std::string>& fields);

  /// "file:line" of the row that was read last.
  std::string place() const { return file_.string() + ":" + std::to_string(line_); }

  /// Throws DataError naming file and line.
  [[noreturn]] void fail(std::string_view what) const;

  Delimiting form() const { return form_; }

 private:
  void next_quoted(std::vector<std::string>& fields);

  std::filesystem::path file_;
  Delimiting form_;
  std::string_view rest_;
  std::size_t line_ = 0;  ///< of the row that was read last, from 1
  std::size_t next_line_ = 1;
};

}  // namespace sparsegrad::finetune
