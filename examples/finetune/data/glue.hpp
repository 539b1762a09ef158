#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/file_layout.hpp"

namespace sparsegrad::finetune {

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
  /// Malformed rows of its files that were left out (see FileLayout::skip_short_rows).
  std::size_t skipped = 0;
  std::size_t unlabelled = 0;  ///< rows without a label that were left out (see FileLayout::no_label)
  /// The numbers by which a submission names the examples of a test split; empty: from 0 in their order.
  std::vector<std::string> indices;
};

enum class MetricKind { matthews, accuracy, f1, pearson, spearman };
/// "matthews_correlation", "accuracy", "f1", "pearson", "spearman".
std::string_view to_string(MetricKind metric);

/// A task is a row of a table in glue.cpp; a new one needs nothing but a new row.
struct Task {
  std::string_view name;                  ///< "cola"
  std::string_view folder;                ///< "CoLA", the folder's name in the GLUE distribution
  std::vector<std::string_view> aliases;  ///< other spellings, compared without case, '-' and '_'
  int num_labels = 2;                     ///< outputs of the head; 1 for regression
  bool regression = false;
  float label_min = 0.0F;  ///< labels outside of [label_min, label_max] are errors
  float label_max = 1.0F;
  std::vector<std::string_view> label_names = {};  ///< how files write the classes, or else as numbers from 0
  std::vector<std::string_view> class_names = {};  ///< their names in config.json, as on the Hugging Face Hub
  std::vector<MetricKind> metrics;                 ///< the first one chooses the best model
  ColumnNames columns = {};
  std::vector<FileLayout> layouts;   ///< tried in this order; none: the task is made, not read
  std::string_view origin;           ///< where its files are to be had
  std::string_view second_dev = {};  ///< the task whose dev set training evaluates as well
  /// The task whose models take this one, which has no train split; none: itself.
  std::string_view trained_on = {};
  std::string_view submission = {};  ///< the file's name in a submission to GLUE; none: it takes no part

  MetricKind main_metric() const { return metrics.front(); }
};

/// All tasks known.
std::span<const Task> all_tasks();

/// The task of this name or alias, whatever its case. Throws DataError listing the known tasks.
const Task& find_task(std::string_view name);

/// Reads a split. `data_dir` holds the task's folder in any spelling (CoLA, cola, ...), or is that folder.
/// Columns are found by the names of the header. A task without files ignores `data_dir`. Throws DataError: missing files
/// (which, where, how to get them), an empty file, missing columns, ragged rows, labels that are none, NUL bytes, text
/// that is not UTF-8, and files all of whose rows are left out.
Dataset load_split(const Task& task, const std::filesystem::path& data_dir, Split split);

/// The file, or the first of the files, that load_split would read for `split`; nothing when it is not there.
std::optional<std::filesystem::path> find_task_file(const Task& task, const std::filesystem::path& data_dir,
                                                    Split split);

/// The files that load_split would read for `split`; none when the first is not there.
std::vector<std::filesystem::path> find_task_files(const Task& task, const std::filesystem::path& data_dir,
                                                   Split split);

/// The folder from which load_split would read `split`; nothing when the files are not there.
std::optional<std::filesystem::path> find_task_folder(const Task& task, const std::filesystem::path& data_dir,
                                                      Split split);

}  // namespace sparsegrad::finetune
