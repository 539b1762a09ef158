#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "data/delimited_text.hpp"
#include "data/records.hpp"
#include "data/text_file.hpp"

namespace sparsegrad::finetune {
namespace {

class TableRecords final : public RecordReader {
 public:
  TableRecords(const std::filesystem::path& file, std::string text, const RecordFormat& format)
      : text_(std::move(text)), layout_(format.layout), rows_(text_, {}, file) {
    const bool csv = plain_name(file.extension().string()) == "csv";
    for (const char separator : csv ? std::string_view(",\t;") : std::string_view("\t,;")) {
      if (read_header(file, separator, format)) return;
    }
    // No header.
    rows_ = DelimitedText(text_, form(csv && layout_.headerless.count == 0 ? ',' : '\t'), file);
    const Headerless& columns = layout_.headerless;
    if (columns.count == 0 || !(format.labelled || columns.in_test)) refuse_header(format);
    first_row_hint_ = "; or a header with the columns " + expected_columns(format);
    places_ = {columns.a, columns.b, columns.label, -1};
    least_ = static_cast<std::size_t>(columns.count);
    most_ = static_cast<std::size_t>(std::max(columns.count, columns.most));
  }

  bool next(Record& record) override {
    for (;;) {
      if (!rows_.next(fields_)) return false;
      ++rows_read_;
      if (fields_.size() >= least_ || !layout_.skip_short_rows) break;
      ++skipped_;
    }
    if (fields_.size() < least_ || fields_.size() > most_) {
      fail(fmt::format("expected {}{} {}-separated columns, found {}", most_,
                       least_ == most_ ? "" : fmt::format(" (at least {})", least_),
                       name_of_separator(rows_.form().separator), fields_.size()));
    }
    if (fields_ == header_) fail("expected a row, found the header once more: are these two files in one?");
    record.a = field(places_.a);
    if (places_.b >= 0) record.b = field(places_.b);
    if (places_.label >= 0) record.label = field(places_.label);
    if (places_.index >= 0) record.index = field(places_.index);
    return true;
  }

  [[noreturn]] void fail(std::string_view what) const override {
    rows_.fail(std::string(what) + (rows_read_ == 1 ? first_row_hint_ : ""));
  }
  std::string place() const override { return rows_.place(); }
  std::size_t skipped() const override { return skipped_; }

 private:
  /// CSV is quoted. Text separated by tabs is not, unless it was written so: pandas quotes it, GLUE does not.
  Delimiting form(char separator) const {
    return {separator, separator != '\t' || looks_quoted(text_, separator)};
  }

  /// Takes the first row for the header when it has the columns.
  bool read_header(const std::filesystem::path& file, char separator, const RecordFormat& format) {
    // The first line alone: the rest may be no text with this separator.
    std::string_view line(text_);
    line = line.substr(0, line.find('\n'));
    if (line.ends_with('\r')) line.remove_suffix(1);
    DelimitedText first(line, {separator, line.find('"') != std::string_view::npos}, file);
    std::string ambiguous;
    try {
      first.next(header_);
    } catch (const DataError&) {
      header_.clear();
      return false;
    }
    const std::optional<ColumnPlaces> places = find_columns(header_, format, ambiguous);
    if (!places) {
      header_.clear();
      return false;
    }
    if (!ambiguous.empty()) {
      first.fail("expected one column each of " + expected_columns(format) + ", found " + ambiguous +
                 ": leave one of them");
    }
    rows_ = DelimitedText(text_, form(separator), file);
    rows_.next(fields_);
    if (fields_ != header_) {
      rows_.fail(
          "expected quotes as CSV has them, as the header is in quotes, found rows that break them: a `\"` "
          "within a "
          "field in quotes is written twice");
    }
    places_ = *places;
    most_ = header_.size();
    least_ =
        layout_.short_tails
            ? static_cast<std::size_t>(std::max({places_.a, places_.b, places_.label, places_.index})) + 1
            : most_;
    return true;
  }

  [[noreturn]] void refuse_header(const RecordFormat& format) {
    rows_.next(fields_);
    const auto label = std::find_if(fields_.rbegin(), fields_.rend(), format.is_label);
    if (format.labelled && label != fields_.rend()) {
      rows_.fail(
          fmt::format("expected a header, found a row with the label {}. The header names the columns {}",
                      *label, expected_columns(format)));
    }
    rows_.fail(fmt::format("expected a header with the columns {}, found {} {}-separated: {}",
                           expected_columns(format), fields_.size(),
                           name_of_separator(rows_.form().separator), in_quotes(fields_)));
  }

  const std::string& field(int place) const { return fields_[static_cast<std::size_t>(place)]; }

  std::string text_;
  FileLayout layout_;
  DelimitedText rows_;
  std::vector<std::string> header_;  ///< empty: none
  std::vector<std::string> fields_;
  ColumnPlaces places_;
  std::size_t least_ = 0;  ///< columns of a row
  std::size_t most_ = 0;
  std::size_t rows_read_ = 0;
  std::size_t skipped_ = 0;
  std::string first_row_hint_;
};

}  // namespace

std::unique_ptr<RecordReader> open_table(const std::filesystem::path& file, std::string text,
                                         const RecordFormat& format) {
  return std::make_unique<TableRecords>(file, std::move(text), format);
}

}  // namespace sparsegrad::finetune
