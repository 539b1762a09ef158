// How a task's files are laid out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sparsegrad::finetune {

/// The names by which a task's files call their columns; the first of each list is GLUE's. Compared without case,
/// blanks, '-', '_' and '.'. A file has one of each list, in any order, among others.
struct ColumnNames {
  std::vector<std::string_view> a;
  std::vector<std::string_view> b = {};  ///< none: single sentences
  std::vector<std::string_view> label = {"label", "labels"};
  std::vector<std::string_view> index = {"index",
                                         "idx"};  ///< by which submissions number a test split's examples
};

/// A file without a header: columns counted from 0.
struct Headerless {
  int count = 0;  ///< columns of a row; 0: there has to be a header
  int most = 0;   ///< columns that a row may have; 0: `count`
  int a = 0;
  int b = -1;  ///< -1: single sentences
  int label = 0;
  bool in_test = false;  ///< test splits have no header either, and the same columns
};

/// One way in which a task's files come: the files of a split, read one after another. Files that end with .json or
/// .jsonl have a JSON object a line, others text with separators, which the header tells.
struct FileLayout {
  std::vector<std::string> train_files = {};  ///< relative to the task's folder; the first one must be there
  std::vector<std::string> dev_files = {};    ///< none: this form has no such split
  std::vector<std::string> test_files = {};
  Headerless headerless = {};
  /// Rows of too few columns are left out, as every reader of that file does. Anywhere else they are errors.
  bool skip_short_rows = false;
  /// Rows may end after the last column that is read.
  bool short_tails = false;
  /// The label of rows that have none: their annotators disagree. They are left out, as every reader of that file
  /// does. "": an error.
  std::string_view no_label = {};
  /// The files' names are those of no other task's, whose folder may have them therefore.
  bool in_any_folder = false;
  /// A form that all tasks have, of which messages need not tell.
  bool common = false;
};

/// The files that other libraries write, with GLUE's and Hugging Face's names of splits: train, dev or validation, and
/// test, each with `suffix` behind dev and test ("_matched"), as TSV, CSV and JSON lines.
std::vector<FileLayout> common_layouts(const std::string& suffix = "", std::string_view no_label = {});

}  // namespace sparsegrad::finetune
