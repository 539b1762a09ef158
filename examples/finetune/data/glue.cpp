#include "data/glue.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <system_error>

#include <fmt/format.h>

#include "data/builtin_acceptability.hpp"
#include "data/label.hpp"
#include "data/records.hpp"
#include "data/text_file.hpp"

namespace sparsegrad::finetune {
namespace {

namespace fs = std::filesystem;

/// GLUE's files of most tasks.
const FileLayout glue_files{
    .train_files = {"train.tsv"}, .dev_files = {"dev.tsv"}, .test_files = {"test.tsv"}};

/// The premise and hypothesis of language inference.
const ColumnNames nli_columns{.a = {"sentence1", "premise", "text1", "text_a"},
                              .b = {"sentence2", "hypothesis", "text2", "text_b"},
                              .label = {"label", "labels", "gold_label"}};

std::vector<FileLayout> with_common(std::vector<FileLayout> own) {
  for (FileLayout& layout : common_layouts())
    own.push_back(std::move(layout));
  return own;
}

/// GLUE's files, those of MultiNLI's own archive (which GLUE's has in `original`), and the common ones.
std::vector<FileLayout> mnli_layouts(const std::string& suffix) {
  std::vector<FileLayout> out{{.train_files = {"train.tsv"},
                               .dev_files = {"dev" + suffix + ".tsv"},
                               .test_files = {"test" + suffix + ".tsv"}}};
  for (const char* folder : {"", "original/"}) {
    for (const char* ending : {".txt", ".jsonl"}) {
      out.push_back({.train_files = {std::string(folder) + "multinli_1.0_train" + ending},
                     .dev_files = {folder + ("multinli_1.0_dev" + suffix) + ending},
                     .short_tails = true,
                     .no_label = "-"});
    }
  }
  for (FileLayout& layout : common_layouts(suffix, "-1"))
    out.push_back(std::move(layout));
  return out;
}

std::vector<FileLayout> diagnostic_layouts() {
  std::vector<FileLayout> out;
  for (const char* folder : {"", "MNLI/"}) {
    const bool common = *folder != '\0';
    for (const char* file : {"diagnostic.tsv", "AX.tsv"})
      out.push_back({.test_files = {std::string(folder) + file}, .in_any_folder = true, .common = common});
    const std::string labelled = std::string(folder) + "diagnostic-full.tsv";
    out.push_back(
        {.dev_files = {labelled}, .test_files = {labelled}, .in_any_folder = true, .common = common});
  }
  for (FileLayout& layout : common_layouts()) {
    layout.train_files.clear();
    layout.dev_files.clear();
    out.push_back(std::move(layout));
  }
  return out;
}

// clang-format off
const std::vector<Task>& task_table() {
  static const std::vector<Task> tasks{
      {.name = "cola", .folder = "CoLA", .aliases = {"cola_public", "cola_public_1.1"},
       .class_names = {"unacceptable", "acceptable"},
       .metrics = {MetricKind::matthews, MetricKind::accuracy},
       .columns = {.a = {"sentence", "text"}},
       .layouts = with_common({
           {.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"}, .test_files = {"test.tsv"},
            .headerless = {.count = 4, .a = 3, .label = 1}},
           // The corpus's own archive; GLUE's dev.tsv is its two dev files in this order.
           {.train_files = {"raw/in_domain_train.tsv"},
            .dev_files = {"raw/in_domain_dev.tsv", "raw/out_of_domain_dev.tsv"},
            .headerless = {.count = 4, .a = 3, .label = 1}}}),
       .origin = "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip or https://dl.fbaipublicfiles.com/glue/data/CoLA.zip",
       .submission = "CoLA.tsv"},
      {.name = "sst2", .folder = "SST-2", .aliases = {"sst"},
       .class_names = {"negative", "positive"},
       .metrics = {MetricKind::accuracy},
       .columns = {.a = {"sentence", "text"}},
       .layouts = with_common({glue_files}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", .submission = "SST-2.tsv"},
      {.name = "mrpc", .folder = "MRPC", .aliases = {},
       .class_names = {"not_equivalent", "equivalent"},
       .metrics = {MetricKind::accuracy, MetricKind::f1},
       .columns = {.a = {"#1 String", "sentence1", "text1", "text_a"},
                   .b = {"#2 String", "sentence2", "text2", "text_b"},
                   .label = {"Quality", "label", "labels"}},
       // The corpus's own files have no dev split.
       .layouts = with_common({glue_files, {.train_files = {"msr_paraphrase_train.txt"},
                                            .test_files = {"msr_paraphrase_test.txt"}}}),
       .origin = "GLUE's download script (https://gluebenchmark.com/tasks)", .submission = "MRPC.tsv"},
      {.name = "stsb", .folder = "STS-B", .aliases = {"sts", "stsbenchmark"},
       .num_labels = 1, .regression = true, .label_max = 5.0F,
       .metrics = {MetricKind::pearson, MetricKind::spearman},
       .columns = {.a = {"sentence1", "text1", "text_a"}, .b = {"sentence2", "text2", "text_b"},
                   .label = {"score", "label", "labels", "similarity_score"}},
       // The benchmark's own files: genre, file, year, number, score, two sentences, perhaps two sources. No header.
       .layouts = with_common({glue_files, {.train_files = {"sts-train.csv"}, .dev_files = {"sts-dev.csv"},
                                            .test_files = {"sts-test.csv"},
                                            .headerless = {.count = 7, .most = 9, .a = 5, .b = 6, .label = 4, .in_test = true}}}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/STS-B.zip", .submission = "STS-B.tsv"},
      {.name = "qqp", .folder = "QQP", .aliases = {},
       .class_names = {"not_duplicate", "duplicate"},
       .metrics = {MetricKind::accuracy, MetricKind::f1},
       .columns = {.a = {"question1", "text1", "text_a"}, .b = {"question2", "text2", "text_b"},
                   .label = {"is_duplicate", "label", "labels"},
                   .index = {"id", "test_id", "index", "idx"}},
       .layouts = with_common({{.train_files = {"train.tsv"}, .dev_files = {"dev.tsv"}, .test_files = {"test.tsv"},
                                .skip_short_rows = true},
                               {.train_files = {"quora_duplicate_questions.tsv"}}}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/QQP-clean.zip", .submission = "QQP.tsv"},
      {.name = "mnli", .folder = "MNLI", .aliases = {"mnli-m", "mnli_matched", "multinli", "multinli_1.0"},
       .num_labels = 3, .label_max = 2.0F, .label_names = {"entailment", "neutral", "contradiction"},
       .class_names = {"entailment", "neutral", "contradiction"},
       .metrics = {MetricKind::accuracy},
       .columns = nli_columns,
       .layouts = mnli_layouts("_matched"),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/MNLI.zip", .second_dev = "mnli-mm",
       .submission = "MNLI-m.tsv"},
      {.name = "mnli-mm", .folder = "MNLI", .aliases = {"mnli_mismatched", "multinli", "multinli_1.0"},
       .num_labels = 3, .label_max = 2.0F, .label_names = {"entailment", "neutral", "contradiction"},
       .class_names = {"entailment", "neutral", "contradiction"},
       .metrics = {MetricKind::accuracy},
       .columns = nli_columns,
       .layouts = mnli_layouts("_mismatched"),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/MNLI.zip", .submission = "MNLI-mm.tsv"},
      {.name = "qnli", .folder = "QNLI", .aliases = {},
       .label_names = {"entailment", "not_entailment"},
       .class_names = {"entailment", "not_entailment"},
       .metrics = {MetricKind::accuracy},
       .columns = {.a = {"question", "text1", "text_a"}, .b = {"sentence", "text2", "text_b"}},
       .layouts = with_common({glue_files}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/QNLIv2.zip", .submission = "QNLI.tsv"},
      {.name = "rte", .folder = "RTE", .aliases = {},
       .label_names = {"entailment", "not_entailment"},
       .class_names = {"entailment", "not_entailment"},
       .metrics = {MetricKind::accuracy},
       .columns = nli_columns,  // SuperGLUE's files say premise and hypothesis
       .layouts = with_common({glue_files}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/RTE.zip", .submission = "RTE.tsv"},
      {.name = "wnli", .folder = "WNLI", .aliases = {},
       .class_names = {"not_entailment", "entailment"},
       .metrics = {MetricKind::accuracy},
       .columns = nli_columns,
       .layouts = with_common({glue_files}),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/WNLI.zip", .submission = "WNLI.tsv"},
      {.name = "acceptability", .folder = "", .aliases = {"builtin", "builtin_acceptability"},
       .class_names = {"unacceptable", "acceptable"},
       .metrics = {MetricKind::matthews, MetricKind::accuracy},
       .layouts = {}, .origin = "built in"},
      // GLUE's diagnostic set, for models of MNLI: a test split, whose labels came out later in diagnostic-full.tsv.
      {.name = "ax", .folder = "AX", .aliases = {"diagnostic", "diagnostics", "glue_diagnostics"},
       .num_labels = 3, .label_max = 2.0F, .label_names = {"entailment", "neutral", "contradiction"},
       .class_names = {"entailment", "neutral", "contradiction"},
       .metrics = {MetricKind::matthews, MetricKind::accuracy},
       .columns = nli_columns,
       .layouts = diagnostic_layouts(),
       .origin = "https://dl.fbaipublicfiles.com/glue/data/AX.tsv, with labels diagnostic-full.tsv "
                 "(https://gluebenchmark.com/diagnostics)",
       .trained_on = "mnli", .submission = "AX.tsv"},
  };
  return tasks;
}
// clang-format on

bool is_called(const Task& task, std::string_view name) {
  const std::string plain = plain_name(name);
  if (plain.empty()) return false;
  return plain == plain_name(task.name) || plain == plain_name(task.folder) ||
         std::any_of(task.aliases.begin(), task.aliases.end(),
                     [&](std::string_view alias) { return plain == plain_name(alias); });
}

const std::vector<std::string>& files_of(const FileLayout& layout, Split split) {
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

/// The task's folders in `data_dir`, in the order of their names, then `data_dir` itself.
std::vector<fs::path> candidate_folders(const Task& task, const fs::path& data_dir) {
  std::vector<fs::path> folders;
  std::error_code no_error;
  for (const fs::directory_entry& entry : fs::directory_iterator(data_dir, no_error)) {
    if (entry.is_directory(no_error) && is_called(task, entry.path().filename().string()))
      folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  folders.push_back(data_dir);
  return folders;
}

std::optional<Place> find_place(const Task& task, const fs::path& data_dir, Split split) {
  std::error_code no_error;
  for (const fs::path& folder : candidate_folders(task, data_dir)) {
    const bool others = owner(task, folder) != nullptr;
    for (const FileLayout& layout : task.layouts) {
      if (others && !layout.in_any_folder)
        continue;  // files of several tasks have the same names and columns
      const std::vector<std::string>& files = files_of(layout, split);
      if (!files.empty() && fs::is_regular_file(folder / files.front(), no_error))
        return Place{folder, &layout};
    }
  }
  return std::nullopt;
}

/// The first files of a folder, for people who look for others.
std::string files_in(const fs::path& folder) {
  constexpr std::size_t most = 8;
  std::vector<std::string> names;
  std::error_code no_error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, no_error)) {
    if (entry.is_regular_file(no_error)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i)
    out += (i == 0 ? "" : ", ") + names[i];
  return names.size() > most ? fmt::format("{} and {} more", out, names.size() - most) : out;
}

/// A form in which data sets come and which is not read, with the command that turns it into one that is.
struct OtherForm {
  std::string_view ending;
  std::string_view name;
  std::string_view command;  ///< the file and the file to write follow
};

constexpr OtherForm other_forms[] = {
    {".parquet", "a Parquet file", parquet_to_json_lines},
    {".arrow", "an Arrow file of datasets",
     "python3 -c \"import datasets, sys; datasets.Dataset.from_file(sys.argv[1]).to_json(sys.argv[2])\""},
    {".gz", "a gzip file", "gunzip"},
    {".zip", "a zip archive", "unzip"},
};

const OtherForm* other_form(const fs::path& file) {
  for (const OtherForm& form : other_forms) {
    if (file.extension() == form.ending) return &form;
  }
  return nullptr;
}

bool is_of_split(const fs::path& file, Split split) {
  const std::string name = file.parent_path().filename().string() + "/" + file.filename().string();
  const auto says = [&](std::string_view word) { return name.find(word) != std::string::npos; };
  if (split == Split::dev) return says("/val") || says("/dev") || says("validation/") || says("dev/");
  return says("/" + std::string(to_string(split))) || says(std::string(to_string(split)) + "/");
}

/// What `folder`, or a folder that libraries make in it, has of the split in a form that is not read, with the cure;
/// else "". `wanted` is the name of the split's file as JSON lines.
std::string other_forms_in(const fs::path& folder, Split split, const std::string& wanted) {
  std::vector<fs::path> files;
  std::error_code no_error;
  if (fs::is_regular_file(folder, no_error)) files.push_back(folder);
  for (const char* inner : {"", "data", "train", "validation", "dev", "test"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / inner, no_error))
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  const auto has_form = [](const fs::path& file) { return other_form(file) != nullptr; };
  auto found = std::find_if(files.begin(), files.end(),
                            [&](const fs::path& file) { return has_form(file) && is_of_split(file, split); });
  const bool of_split = found != files.end();
  if (!of_split) found = std::find_if(files.begin(), files.end(), has_form);
  if (found == files.end()) return "";
  const OtherForm& form = *other_form(*found);
  const bool packed = form.command.find(' ') == std::string_view::npos;
  const fs::path target = (fs::is_directory(folder, no_error) ? folder : folder.parent_path()) / wanted;
  return fmt::format(" {} is {}, which is not read: {} '{}'{}", found->string(), form.name, form.command,
                     of_split ? found->string() : "FILE" + std::string(form.ending),
                     packed ? "" : " '" + target.string() + "'");
}

[[noreturn]] void throw_missing(const Task& task, const fs::path& data_dir, Split split) {
  std::string files;
  std::string others;  // CSV stands for all the common ones
  std::string wanted;  // as JSON lines
  for (const FileLayout& layout : task.layouts) {
    const std::vector<std::string>& names = files_of(layout, split);
    if (names.empty()) continue;
    if (wanted.empty() && layout.common && names.front().ends_with(".jsonl")) wanted = names.front();
    if (layout.common && !names.front().ends_with(".csv")) continue;
    std::string& list = layout.common ? others : files;
    if (list == names.front()) continue;  // layouts that differ in other splits
    list += (list.empty() ? "" : " or ") + names.front();
  }
  if (!others.empty()) others = " Read as well: " + others + ", or the same with .tsv, .jsonl or .json.";
  std::error_code no_error;
  std::string found = "none there";
  if (!fs::exists(data_dir, no_error)) {
    found = "no such directory as " + data_dir.string();
  } else if (!fs::is_directory(data_dir, no_error)) {
    found = data_dir.string() + " to be a file";
  } else if (const Task* other = owner(task, data_dir)) {
    found = data_dir.string() + " to be the folder of task " + std::string(other->name);
  } else {
    for (const fs::path& folder : candidate_folders(task, data_dir)) {
      if (const std::string names = files_in(folder); !names.empty()) {
        found += fmt::format(" ({} has {})", folder.string(), names);
        break;
      }
    }
  }
  for (const fs::path& folder : candidate_folders(task, data_dir)) {
    const std::string other = owner(task, folder) == nullptr ? other_forms_in(folder, split, wanted) : "";
    if (other.empty()) continue;
    found += "." + other;
    break;
  }
  throw DataError(
      fmt::format("task {}: expected {} in {} or in {}, found {}.{} To get the files: {}, unpacked into {}",
                  task.name, files, (data_dir / task.folder).string(), data_dir.string(), found, others,
                  task.origin, (data_dir / task.folder).string()));
}

/// Scores that were brought to 0..1 look like small ones of 0..5. No part of the task's files is so by chance.
void check_scale(const Task& task, const fs::path& file, std::span<const Example> examples) {
  constexpr std::size_t enough = 20;
  if (!task.regression || examples.size() < enough) return;
  const float largest =
      std::max_element(examples.begin(), examples.end(), [](const Example& x, const Example& y) {
        return x.label < y.label;
      })->label;
  if (largest > 1.0F) return;
  throw DataError(
      fmt::format("{}: expected scores from {} to {}, found none above {} in {} rows. If they were divided "
                  "by {}, multiply them again",
                  file.string(), task.label_min, task.label_max, largest, examples.size(), task.label_max));
}

/// A submission has one prediction of each.
void check_indices(const fs::path& file, std::vector<std::string> indices) {
  std::sort(indices.begin(), indices.end());
  const auto twice = std::adjacent_find(indices.begin(), indices.end());
  if (twice != indices.end())
    throw DataError(fmt::format("{}: expected each index once, found {} twice", file.string(), *twice));
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

void read_file(const Task& task, const FileLayout& layout, Split split, const fs::path& file, Dataset& data) {
  const bool labelled = split != Split::test;
  const auto is_label = [&](std::string_view text) { return parse_label(task, text).has_value(); };
  const std::unique_ptr<RecordReader> records = open_records(
      file, {.names = task.columns, .layout = layout, .labelled = labelled, .is_label = is_label});
  const std::size_t before = data.examples.size();
  std::size_t unlabelled = 0;
  std::size_t textless = 0;
  std::string first_textless;
  Record record;
  while (records->next(record)) {
    if (is_blank(record.a) && (!record.b || is_blank(*record.b)) && ++textless == 1)
      first_textless = records->place();
    if (labelled && !layout.no_label.empty() && record.label == layout.no_label) {
      ++unlabelled;
      continue;
    }
    float label = 0.0F;
    if (labelled) {
      const std::optional<float> value = parse_label(task, record.label);
      if (!value) records->fail(label_error(task, record.label));
      label = *value;
    }
    data.examples.push_back({std::move(record.a), std::move(record.b), label});
    if (record.index) {
      if (record.index->empty() || record.index->find_first_not_of("0123456789") != std::string::npos)
        records->fail("expected a whole number as index, found " + in_quotes({*record.index}));
      data.indices.push_back(std::move(*record.index));
    }
  }
  // A submission has a prediction of each, so that none is left out here.
  if (textless > 0) {
    throw DataError(
        fmt::format("{}: expected text, found a row without any ({} such rows in the file). Leave them out, "
                    "or write what stands for no text",
                    first_textless, textless));
  }
  if (data.examples.size() == before) {
    if (records->skipped() + unlabelled == 0)
      throw DataError(file.string() + ": expected rows, found a header alone");
    std::string why;
    if (records->skipped() > 0) why = fmt::format("{} have too few columns", records->skipped());
    if (unlabelled > 0)
      why += fmt::format("{}{} have the label \"{}\", which stands for none", why.empty() ? "" : ", ",
                         unlabelled, layout.no_label);
    throw DataError(fmt::format("{}: expected rows, found none that can be used: {}", file.string(), why));
  }
  if (!labelled) check_indices(file, data.indices);
  if (labelled) check_scale(task, file, std::span(data.examples).subspan(before));
  data.skipped += records->skipped();
  data.unlabelled += unlabelled;
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

std::optional<fs::path> find_task_file(const Task& task, const fs::path& data_dir, Split split) {
  const std::optional<Place> place = find_place(task, data_dir, split);
  return place ? std::optional<fs::path>(place->folder / files_of(*place->layout, split).front())
               : std::nullopt;
}

std::vector<fs::path> find_task_files(const Task& task, const fs::path& data_dir, Split split) {
  std::vector<fs::path> files;
  if (const std::optional<Place> place = find_place(task, data_dir, split)) {
    for (const std::string& file : files_of(*place->layout, split))
      files.push_back(place->folder / file);
  }
  return files;
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
  if (!any) {
    std::string text = fmt::format("task {}: has no {} split", task.name, to_string(split));
    if (split == Split::train && !task.trained_on.empty())
      text += fmt::format(": train on {}, and evaluate that model", task.trained_on);
    throw DataError(text);
  }
  if (!place) throw_missing(task, data_dir, split);
  Dataset out;
  out.name = std::string(task.name) + "/" + std::string(to_string(split));
  for (const std::string& file : files_of(*place->layout, split)) {
    // Only the first file is a must: the corpus's archive is also found with its in-domain part alone.
    std::error_code no_error;
    if (!out.examples.empty() && !fs::exists(place->folder / file, no_error)) continue;
    read_file(task, *place->layout, split, place->folder / file, out);
  }
  return out;
}

}  // namespace sparsegrad::finetune
