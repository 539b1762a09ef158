// The rows of a task's file by the meaning of their columns, whatever the file's form.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/file_layout.hpp"

namespace sparsegrad::finetune {

/// A row: two sentences, or one, with the label and the index as they are written.
struct Record {
  std::string a;
  std::optional<std::string> b;
  std::string label;                 ///< "" where it is not asked for
  std::optional<std::string> index;  ///< nothing: the file has no such column
};

/// How a file's rows are read.
struct RecordFormat {
  ColumnNames names;
  FileLayout layout;
  bool labelled = true;  ///< whether rows need a label
  /// Whether a text is a label: by that a row in the place of the header is told.
  std::function<bool(std::string_view)> is_label;
};

/// The rows of a file, one after another.
class RecordReader {
 public:
  virtual ~RecordReader() = default;
  /// False at the end. Throws DataError where a row is malformed.
  virtual bool next(Record& record) = 0;
  /// Throws DataError naming the file and the line of the last row.
  [[noreturn]] virtual void fail(std::string_view what) const = 0;
  /// The last row's place, as `fail` names it: "file:line".
  virtual std::string place() const = 0;
  /// Rows of too few columns that were left out so far.
  virtual std::size_t skipped() const { return 0; }
};

/// Opens a file. Throws DataError: the file cannot be read, or does not have the columns.
std::unique_ptr<RecordReader> open_records(const std::filesystem::path& file, const RecordFormat& format);

/// open_records for text with separators.
std::unique_ptr<RecordReader> open_table(const std::filesystem::path& file, std::string text,
                                         const RecordFormat& format);

/// open_records for JSON: an object a line, or one array of objects.
std::unique_ptr<RecordReader> open_json(const std::filesystem::path& file, std::string text,
                                        const RecordFormat& format);

/// Where the columns of a record are among a file's, from 0; -1: not there.
struct ColumnPlaces {
  int a = -1;
  int b = -1;
  int label = -1;
  int index = -1;
};

/// Finds the columns by their names. Nothing when one that is needed is not there. `ambiguous` says which have more than
/// one.
std::optional<ColumnPlaces> find_columns(const std::vector<std::string>& names, const RecordFormat& format,
                                         std::string& ambiguous);

/// The columns that a file must have, for messages: "sentence1 (or premise), sentence2 (or hypothesis) and label".
std::string expected_columns(const RecordFormat& format);

/// Names as messages list them: in quotes, long ones cut.
std::string in_quotes(const std::vector<std::string>& names);

}  // namespace sparsegrad::finetune
