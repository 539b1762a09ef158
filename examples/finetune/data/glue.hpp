#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sparsegrad::glue {

/// What the readers throw. The text starts with `file:line:` where a line is at fault.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Split { train, dev, test };
std::string_view to_string(Split split);

/// `label` is the class's number, or the score in a regression task; 0 in a test split, whose labels are not public.
struct Example {
  std::string a;
  std::optional<std::string> b;
  float label = 0.0F;
};

struct Dataset {
  std::string name;  ///< e.g. "cola/train"
  std::vector<Example> examples;
  std::size_t skipped = 0;  ///< malformed rows of its files that were left out (see Columns::skip_short_rows)
};

enum class MetricKind { matthews, accuracy, f1, pearson, spearman };
/// "matthews_correlation", "accuracy", "f1", "pearson", "spearman".
std::string_view to_string(MetricKind metric);

/// The columns of a file, counted from 0.
struct Columns {
  bool header = false;
  int count = 0;  ///< 0: as many as the header has
  int a = 0;
  int b = -1;      ///< -1: single sentences
  int label = -1;  ///< -1: the last one
  /// Rows of too few columns are left out, as every reader of that file does. Anywhere else they are errors.
  bool skip_short_rows = false;
};

/// One way in which a task's files come: the files of a split, read one after the other, and their columns.
struct FileLayout {
  std::vector<std::string_view> train_files;  ///< relative to the task's folder; the first one must be there
  std::vector<std::string_view> dev_files;
  Columns columns;
  std::vector<std::string_view> test_files = {};  ///< none: this form has no test split
  Columns test_columns = {};                      ///< its label is not read
};

/// A task is a row of a table in glue.cpp; a new one needs nothing but a new row.
struct Task {
  std::string_view name;                  ///< "cola"
  std::string_view folder;                ///< "CoLA", the folder's name in the GLUE distribution
  std::vector<std::string_view> aliases;  ///< other spellings, compared without case, '-' and '_'
  int num_labels = 2;                     ///< outputs of the head; 1 for regression
  bool regression = false;
  float label_min = 0.0F;  ///< labels outside of [label_min, label_max] are errors
  float label_max = 1.0F;
  std::vector<std::string_view> label_names = {};  ///< how files write the classes; none: as numbers
  std::vector<std::string_view> class_names = {};  ///< their names in config.json, as on the Hugging Face Hub
  std::vector<MetricKind> metrics;                 ///< the first one chooses the best model
  std::vector<FileLayout> layouts;                 ///< tried in this order; none: the task is made, not read
  std::string_view origin;                         ///< where its files are to be had
  std::string_view second_dev = {};                ///< the task whose dev set training evaluates as well
  std::string_view submission = {};  ///< the file's name in a submission to GLUE; none: it takes no part

  MetricKind main_metric() const { return metrics.front(); }
};

/// All tasks known.
std::span<const Task> all_tasks();

/// The task of this name or alias, whatever its case. Throws DataError listing the known tasks.
const Task& find_task(std::string_view name);

/// Reads a split. `data_dir` holds the task's folder in any spelling (CoLA, cola, ...), or is that folder.
/// A task without files ignores `data_dir`. Throws DataError: missing files (which, where, how to get them),
/// an empty file, ragged rows, labels that are not numbers in range, NUL bytes, text that is not UTF-8.
Dataset load_split(const Task& task, const std::filesystem::path& data_dir, Split split);

/// The folder from which load_split would read `split`; nothing when the files are not there.
std::optional<std::filesystem::path> find_task_folder(const Task& task, const std::filesystem::path& data_dir,
                                                      Split split);

}  // namespace sparsegrad::glue
