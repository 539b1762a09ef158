#include "data/data_source.hpp"

#include <cstdlib>

#include <fmt/format.h>

#include "data/builtin_acceptability.hpp"

namespace sparsegrad::finetune {

DataSource find_data(const Task& task, const std::filesystem::path& option, Split needed) {
  if (task.layouts.empty()) return {fmt::format("the built-in set '{}'", task.name), "builtin", {}};
  const auto folder = [&](const std::filesystem::path& path, const char* kind, const char* named_by) {
    const std::optional<std::filesystem::path> file = find_task_file(task, path, needed);
    if (!file) load_split(task, path, needed);  // reports what is missing; the data itself is read later
    return DataSource{fmt::format("{} in {} ({}), {}", task.folder, path.string(), named_by,
                                  file ? file->filename().string() : ""),
                      kind, path};
  };
  if (!option.empty()) return folder(option, "option", "--data");
  const char* variable = std::getenv(data_variable);
  if (variable != nullptr && *variable != '\0') return folder(variable, "environment", data_variable);
  if (task.name == "cola") {
    return {
        fmt::format(
            "the built-in set of acceptability judgements, in place of CoLA: neither --data nor {} is given",
            data_variable),
        "builtin",
        {}};
  }
  throw DataError(fmt::format("task {}: expected --data DIR or {}, found neither. To get the files: {}",
                              task.name, data_variable, task.origin));
}

Dataset load_data(const Task& task, const DataSource& source, Split split) {
  if (source.kind == "builtin") {
    if (split == Split::test) throw DataError("the built-in set has no test split");
    return builtin_acceptability(split);
  }
  return load_split(task, source.folder, split);
}

}  // namespace sparsegrad::finetune
