#include "training/output/output_folder.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sparsegrad/core/error.hpp>

#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/hf_directory.hpp"
#include "checkpoints/state_files.hpp"
#include "training/output/output_file.hpp"
#include "training/output/run_log.hpp"

namespace sparsegrad::finetune {

namespace fs = std::filesystem;

namespace {

/// Removes the files of `folder` that `which` names, and the folder if nothing else is in it.
void remove_files(const fs::path& folder, const std::function<bool(const std::string& name)>& which) {
  std::error_code none;
  std::vector<fs::path> chosen;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none)) {
    if (entry.is_regular_file(none) && which(entry.path().filename().string()))
      chosen.push_back(entry.path());
  }
  for (const fs::path& file : chosen)
    fs::remove(file, none);
  if (!chosen.empty()) fs::remove(folder, none);  // which fails while something is left
}

/// Names of files that are written aside before they get their own.
bool is_half_done(const std::string& name) {
  static const std::regex aside(R"(.*\.(tmp-\d+-\d+|partial|new))");
  return std::regex_match(name, aside);
}

bool is_of_a_state(const std::string& name) {
  return name.starts_with("state.safetensors");
}

bool is_of_a_model(const std::string& name) {
  for (const char* file : saved_file_names()) {
    if (name == file) return true;
  }
  const std::vector<std::string> decoder = decoder_file_names();
  return std::find(decoder.begin(), decoder.end(), name) != decoder.end();
}

bool is_of_events(const std::string& name) {
  return name.starts_with("events.out.tfevents.") && name.ends_with(".sparsegrad");
}

bool is_log_of_a_run(const fs::path& log) {
  try {
    if (!fs::exists(log)) return false;
    const std::string format = read_json(log).value("format", "");
    return format == run_log_format || format == llm_run_log_format;
  } catch (const std::exception&) {
    return false;  // some other file by this name
  }
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& path) : OutputPaths(path) {
  make_folder(path);
  const fs::path file = path / "run.lock";
  do
    lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  while (lock_ < 0 && errno == EINTR);
  if (lock_ < 0)
    throw IoError(fmt::format("{}: cannot be opened for writing: {}", file.string(), std::strerror(errno)));
  // The lock goes with the process, however that ends; the file stays, for whoever removed it would remove another's lock.
  // A file system without locks cannot tell of others.
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(lock_);
    throw StateError(fmt::format(
        "{}: another process is running in this folder; wait for its end, or choose another --output",
        path.string()));
  }
  // A user's own files are beside the log.
  remove_files(path,
               [](const std::string& name) { return name.starts_with("run.json.") && is_half_done(name); });
  remove_files(checkpoint(), is_half_done);
  remove_files(model(), is_half_done);
}

OutputFolder::~OutputFolder() {
  ::close(lock_);
}

bool OutputPaths::has_state() const {
  return exists(state()) || exists(previous_state(state()));
}

bool OutputPaths::has_log() const {
  return is_log_of_a_run(log());
}

bool OutputPaths::has_results() const {
  if (!has_log()) return false;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(model(), none))
    if (is_of_a_model(entry.path().filename().string())) return true;
  return has_state();
}

index_t OutputPaths::bytes() const {
  index_t sum = 0;
  for (const fs::path& folder : {model(), checkpoint()}) {
    std::error_code none;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
      if (entry.is_regular_file(none)) sum += static_cast<index_t>(entry.file_size(none));
  }
  return sum;
}

void OutputFolder::remove_checkpoint() {
  remove_files(checkpoint(),
               [](const std::string& name) { return is_of_a_state(name) || is_of_a_model(name); });
}

void OutputFolder::require_not_written(const fs::path& source) const {
  for (const fs::path& folder : {model(), checkpoint()}) {
    std::error_code none;
    if (fs::equivalent(source, folder, none)) {
      throw ValueError(
          fmt::format("--model is {}, which a run in --output {} writes to; choose another --output",
                      source.string(), path().string()));
    }
  }
}

void OutputFolder::clear() {
  if (!has_log()) return;
  remove_checkpoint();
  remove_files(model(), is_of_a_model);
  remove_files(tensorboard(), is_of_events);
  // Last: until then the log shows whose files these are.
  std::error_code none;
  fs::remove(log(), none);
}

}  // namespace sparsegrad::finetune
