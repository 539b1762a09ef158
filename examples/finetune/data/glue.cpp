#include "data/glue.hpp"

#include <sparsegrad/core/float_bits.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <system_error>

#include "data/builtin_acceptability.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::glue {
namespace {

namespace fs = std::filesystem;

// clang-format off
const std::vector<Task>& task_table() {
  static const std::vector<Task> tasks{
      {.name = "cola", .folder = "CoLA", .aliases = {"cola_public", "cola_public_1.1"},
       .class_names = {"unacceptable", "acceptable"},
       .metrics = {MetricKind::matthews, MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.count = 4, .a = 3, .label = 1},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 2, .a = 1}},
                   // The corpus's own archive; GLUE's dev.tsv is its two dev files in this order.
                   {.train_files = {"raw/in_domain_train.tsv"},
                    .dev_files = {"raw/in_domain_dev.tsv", "raw/out_of_domain_dev.tsv"},
                    .columns = {.count = 4, .a = 3, .label = 1}}},
       .origin = "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip or https://dl.fbaipublicfiles.com/glue/data/CoLA.zip",
       .submission = "CoLA.tsv"},
      {.name = "sst2", .folder = "SST-2", .aliases = {"sst"},
       .class_names = {"negative", "positive"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 2, .a = 0, .label = 1},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 2, .a = 1}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", .submission = "SST-2.tsv"},
      {.name = "mrpc", .folder = "MRPC", .aliases = {},
       .class_names = {"not_equivalent", "equivalent"},
       .metrics = {MetricKind::accuracy, MetricKind::f1},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 5, .a = 3, .b = 4, .label = 0},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 5, .a = 3, .b = 4}}},
       .origin = "GLUE's download script (https://gluebenchmark.com/tasks)", .submission = "MRPC.tsv"},
      {.name = "stsb", .folder = "STS-B", .aliases = {"sts"},
       .num_labels = 1, .regression = true, .label_max = 5.0F,
       .metrics = {MetricKind::pearson, MetricKind::spearman},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 10, .a = 7, .b = 8, .label = 9},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 9, .a = 7, .b = 8}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/STS-B.zip", .submission = "STS-B.tsv"},
      {.name = "qqp", .folder = "QQP", .aliases = {},
       .class_names = {"not_duplicate", "duplicate"},
       .metrics = {MetricKind::accuracy, MetricKind::f1},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 6, .a = 3, .b = 4, .label = 5, .skip_short_rows = true},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 3, .a = 1, .b = 2}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/QQP-clean.zip", .submission = "QQP.tsv"},
      {.name = "mnli", .folder = "MNLI", .aliases = {"mnli-m", "mnli_matched"},
       .num_labels = 3, .label_max = 2.0F, .label_names = {"entailment", "neutral", "contradiction"},
       .class_names = {"entailment", "neutral", "contradiction"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev_matched.tsv"},
                    .columns = {.header = true, .a = 8, .b = 9},
                    .test_files = {"test_matched.tsv"}, .test_columns = {.header = true, .count = 10, .a = 8, .b = 9}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/MNLI.zip", .second_dev = "mnli-mm",
       .submission = "MNLI-m.tsv"},
      {.name = "mnli-mm", .folder = "MNLI", .aliases = {"mnli_mismatched"},
       .num_labels = 3, .label_max = 2.0F, .label_names = {"entailment", "neutral", "contradiction"},
       .class_names = {"entailment", "neutral", "contradiction"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev_mismatched.tsv"},
                    .columns = {.header = true, .a = 8, .b = 9},
                    .test_files = {"test_mismatched.tsv"}, .test_columns = {.header = true, .count = 10, .a = 8, .b = 9}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/MNLI.zip", .submission = "MNLI-mm.tsv"},
      {.name = "qnli", .folder = "QNLI", .aliases = {},
       .label_names = {"entailment", "not_entailment"},
       .class_names = {"entailment", "not_entailment"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 4, .a = 1, .b = 2, .label = 3},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 3, .a = 1, .b = 2}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/QNLIv2.zip", .submission = "QNLI.tsv"},
      {.name = "rte", .folder = "RTE", .aliases = {},
       .label_names = {"entailment", "not_entailment"},
       .class_names = {"entailment", "not_entailment"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 4, .a = 1, .b = 2, .label = 3},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 3, .a = 1, .b = 2}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/RTE.zip", .submission = "RTE.tsv"},
      {.name = "wnli", .folder = "WNLI", .aliases = {},
       .class_names = {"not_entailment", "entailment"},
       .metrics = {MetricKind::accuracy},
       .layouts = {{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"},
                    .columns = {.header = true, .count = 4, .a = 1, .b = 2, .label = 3},
                    .test_files = {"test.tsv"}, .test_columns = {.header = true, .count = 3, .a = 1, .b = 2}}},
       .origin = "https://dl.fbaipublicfiles.com/glue/data/WNLI.zip", .submission = "WNLI.tsv"},
      {.name = "acceptability", .folder = "", .aliases = {"builtin", "builtin_acceptability"},
       .class_names = {"unacceptable", "acceptable"},
       .metrics = {MetricKind::matthews, MetricKind::accuracy},
       .layouts = {}, .origin = "built in"},
  };
  return tasks;
}
// clang-format on

/// Lower case without the signs that people put or leave out.
std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '-' || c == '_' || c == '.' || c == ' ') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return out;
}

bool is_called(const Task& task, std::string_view name) {
  const std::string plain = plain_name(name);
  if (plain.empty()) return false;
  return plain == plain_name(task.name) || plain == plain_name(task.folder) ||
         std::any_of(task.aliases.begin(), task.aliases.end(),
                     [&](std::string_view alias) { return plain == plain_name(alias); });
}

const std::vector<std::string_view>& files_of(const FileLayout& layout, Split split) {
  if (split == Split::test) return layout.test_files;
  return split == Split::train ? layout.train_files : layout.dev_files;
}

struct Place {
  fs::path folder;
  const FileLayout* layout = nullptr;
};

/// The name of a folder, also of ".".
std::string name_of(const fs::path& folder) {
  std::error_code no_error;
  fs::path path = fs::absolute(folder, no_error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

/// The other task whose folder this is by its name; null when it is none's, or the task's own.
const Task* owner(const Task& task, const fs::path& folder) {
  const std::string name = name_of(folder);
  if (is_called(task, name)) return nullptr;
  for (const Task& other : task_table()) {
    if (is_called(other, name)) return &other;
  }
  return nullptr;
}

/// The task's folders in `data_dir`, in the order of their names, then `data_dir` itself unless it is another task's:
/// files of several tasks have the same names and columns.
std::vector<fs::path> candidate_folders(const Task& task, const fs::path& data_dir) {
  std::vector<fs::path> folders;
  std::error_code no_error;
  for (const fs::directory_entry& entry : fs::directory_iterator(data_dir, no_error)) {
    if (entry.is_directory(no_error) && is_called(task, entry.path().filename().string()))
      folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  if (owner(task, data_dir) == nullptr) folders.push_back(data_dir);
  return folders;
}

std::optional<Place> find_place(const Task& task, const fs::path& data_dir, Split split) {
  std::error_code no_error;
  for (const fs::path& folder : candidate_folders(task, data_dir)) {
    for (const FileLayout& layout : task.layouts) {
      const std::vector<std::string_view>& files = files_of(layout, split);
      if (!files.empty() && fs::is_regular_file(folder / files.front(), no_error))
        return Place{folder, &layout};
    }
  }
  return std::nullopt;
}

[[noreturn]] void throw_missing(const Task& task, const fs::path& data_dir, Split split) {
  std::string files;
  for (const FileLayout& layout : task.layouts) {
    const std::vector<std::string_view>& names = files_of(layout, split);
    if (!names.empty()) files += (files.empty() ? "" : " or ") + std::string(names.front());
  }
  std::error_code no_error;
  std::string found = "none there";
  if (!fs::exists(data_dir, no_error)) {
    found = "no such directory as " + data_dir.string();
  } else if (!fs::is_directory(data_dir, no_error)) {
    found = data_dir.string() + " to be a file";
  } else if (const Task* other = owner(task, data_dir)) {
    found = data_dir.string() + " to be the folder of task " + std::string(other->name);
  }
  throw DataError("task " + std::string(task.name) + ": expected " + files + " in " +
                  (data_dir / task.folder).string() + " or in " + data_dir.string() + ", found " + found +
                  ". To get the files: " + std::string(task.origin) + ", unpacked into " +
                  (data_dir / task.folder).string());
}

/// One file being read: its rows as columns, with errors that name file and line.
class TableReader {
 public:
  TableReader(fs::path file, const Columns& layout) : file_(std::move(file)), layout_(layout) {
    std::ifstream stream(file_, std::ios::binary);
    if (!stream) throw DataError(file_.string() + ": cannot be opened");
    text_.assign(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    rest_ = text_;
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
    while (rest_.ends_with('\n') || rest_.ends_with('\r'))
      rest_.remove_suffix(1);  // blank lines at the end are no rows
    if (rest_.empty()) throw DataError(file_.string() + ": expected rows, found an empty file");
  }

  /// The columns of the next row; false at the end.
  bool next(std::vector<std::string_view>& columns) {
    if (rest_.empty()) return false;
    ++line_;
    const std::size_t end = std::min(rest_.find('\n'), rest_.size());
    std::string_view row = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (const std::size_t at = row.find('\0'); at != std::string_view::npos) {
      fail("expected text, found a NUL byte at byte " + std::to_string(at) + " of the line");
    }
    if (const auto at = find_invalid_utf8(row)) {
      fail("expected UTF-8, found an invalid byte at byte " + std::to_string(*at) + " of the line");
    }
    columns.clear();
    for (std::size_t start = 0;;) {
      const std::size_t tab = std::min(row.find('\t', start), row.size());
      columns.push_back(row.substr(start, tab - start));
      if (tab == row.size()) break;
      start = tab + 1;
    }
    if (expected_ == 0)
      expected_ = layout_.count > 0 ? static_cast<std::size_t>(layout_.count) : columns.size();
    if (columns.size() < expected_ && layout_.skip_short_rows) {
      ++skipped_;
      return next(columns);
    }
    if (columns.size() != expected_) {
      fail("expected " + std::to_string(expected_) + " tab-separated columns, found " +
           std::to_string(columns.size()));
    }
    return true;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(file_.string() + ":" + std::to_string(line_) + ": " + what);
  }

  const fs::path& file() const { return file_; }
  /// Rows left out so far.
  std::size_t skipped() const { return skipped_; }

 private:
  fs::path file_;
  const Columns& layout_;
  std::size_t expected_ = 0;  ///< columns of a row; 0 until the first one
  std::string text_;
  std::string_view rest_;
  std::size_t line_ = 0;
  std::size_t skipped_ = 0;
};

std::optional<float> to_number(std::string_view text) {
  float value = 0.0F;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !sparsegrad::is_finite(value))
    return std::nullopt;
  return value;
}

std::string short_number(float value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

float read_label(const Task& task, std::string_view text, const TableReader& reader) {
  if (!task.label_names.empty()) {
    const auto at = std::find(task.label_names.begin(), task.label_names.end(), text);
    if (at != task.label_names.end()) return static_cast<float>(at - task.label_names.begin());
    std::string known;
    for (const std::string_view name : task.label_names)
      known += (known.empty() ? "" : ", ") + std::string(name);
    reader.fail("expected a label, one of " + known + ", found \"" + std::string(text) + "\"");
  }
  const std::optional<float> value = to_number(text);
  const bool whole = value && *value == std::floor(*value);
  if (value && *value >= task.label_min && *value <= task.label_max && (task.regression || whole))
    return *value;
  reader.fail("expected a label, a " + std::string(task.regression ? "number" : "whole number") + " from " +
              short_number(task.label_min) + " to " + short_number(task.label_max) + ", found \"" +
              std::string(text) + "\"");
}

void read_table(const Task& task, const Columns& layout, bool labelled, const fs::path& file, Dataset& data) {
  std::vector<Example>& out = data.examples;
  TableReader reader(file, layout);
  std::vector<std::string_view> columns;
  const auto column = [&](int index) { return columns[static_cast<std::size_t>(index)]; };
  const auto label = [&] { return layout.label >= 0 ? column(layout.label) : columns.back(); };
  const std::size_t before = out.size();
  if (layout.header && reader.next(columns)) {
    const int last = std::max({layout.a, layout.b, layout.label});
    if (columns.size() <= static_cast<std::size_t>(last)) {
      reader.fail("expected a header of at least " + std::to_string(last + 1) +
                  " tab-separated columns, found " + std::to_string(columns.size()));
    }
    const bool named =
        std::find(task.label_names.begin(), task.label_names.end(), label()) != task.label_names.end();
    if (labelled && (named || to_number(label())))
      reader.fail("expected a header, found a row with the label " + std::string(label()));
  }
  while (reader.next(columns)) {
    Example& example = out.emplace_back();
    example.a = column(layout.a);
    if (layout.b >= 0) example.b = column(layout.b);
    if (labelled) example.label = read_label(task, label(), reader);
  }
  if (out.size() == before) throw DataError(file.string() + ": expected rows, found a header alone");
  data.skipped += reader.skipped();
}

}  // namespace

std::string_view to_string(Split split) {
  if (split == Split::test) return "test";
  return split == Split::train ? "train" : "dev";
}

std::string_view to_string(MetricKind metric) {
  switch (metric) {
    case MetricKind::matthews:
      return "matthews_correlation";
    case MetricKind::accuracy:
      return "accuracy";
    case MetricKind::f1:
      return "f1";
    case MetricKind::pearson:
      return "pearson";
    case MetricKind::spearman:
      return "spearman";
  }
  return "unknown";
}

std::span<const Task> all_tasks() {
  return task_table();
}

const Task& find_task(std::string_view name) {
  std::string known;
  for (const Task& task : task_table()) {
    if (is_called(task, name)) return task;
    known += (known.empty() ? "" : ", ") + std::string(task.name);
  }
  throw DataError("expected a task, one of " + known + ", found \"" + std::string(name) + "\"");
}

std::optional<fs::path> find_task_folder(const Task& task, const fs::path& data_dir, Split split) {
  const std::optional<Place> place = find_place(task, data_dir, split);
  return place ? std::optional<fs::path>(place->folder) : std::nullopt;
}

Dataset load_split(const Task& task, const fs::path& data_dir, Split split) {
  if (task.layouts.empty() && split != Split::test) return builtin_acceptability(split);
  const std::optional<Place> place = find_place(task, data_dir, split);
  const bool any = std::any_of(task.layouts.begin(), task.layouts.end(),
                               [&](const FileLayout& layout) { return !files_of(layout, split).empty(); });
  if (!any)
    throw DataError("task " + std::string(task.name) + ": has no " + std::string(to_string(split)) +
                    " split");
  if (!place) throw_missing(task, data_dir, split);
  Dataset out;
  out.name = std::string(task.name) + "/" + std::string(to_string(split));
  for (const std::string_view file : files_of(*place->layout, split)) {
    // Only the first file is a must: the corpus's archive is also found with its in-domain part alone.
    std::error_code no_error;
    if (!out.examples.empty() && !fs::exists(place->folder / file, no_error)) continue;
    const bool test = split == Split::test;
    read_table(task, test ? place->layout->test_columns : place->layout->columns, !test, place->folder / file,
               out);
  }
  return out;
}

}  // namespace sparsegrad::glue
