// The folder that a run writes to.
#pragma once

#include <filesystem>
#include <utility>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// Where the files of a run lie.
class OutputPaths {
 public:
  explicit OutputPaths(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  /// The log of a run whose folder is `path`.
  static std::filesystem::path log_in(const std::filesystem::path& path) { return path / "run.json"; }
  std::filesystem::path log() const { return log_in(path_); }
  std::filesystem::path model() const { return path_ / "model"; }
  std::filesystem::path checkpoint() const { return path_ / "checkpoint"; }
  std::filesystem::path state() const { return checkpoint() / "state.safetensors"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }

  /// Whether there is a state to go on from: the last one, or the one before it.
  bool has_state() const;
  /// Whether a run's log is there.
  bool has_log() const;
  /// Whether a run's log is there, and beside it a model or a state that would be missed.
  bool has_results() const;
  /// Bytes of the models and states that are there.
  index_t bytes() const;

 private:
  std::filesystem::path path_;
};

/// A run's output folder, held by one process at a time.
class OutputFolder : public OutputPaths {
 public:
  /// Makes the folder, takes it until the object's end, and removes what writers that were killed left half done.
  /// Throws IoError with the system's reason; StateError when another process has taken it.
  explicit OutputFolder(const std::filesystem::path& path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Removes what a run that has ended needs no more: states, and the model as it was at an interrupt.
  void remove_checkpoint();

  /// Throws ValueError when `model` is a folder that this run writes to, whose files it would replace while it needs them.
  void require_not_written(const std::filesystem::path& model) const;

  /// Removes what an earlier run left here, so that nothing of it stands beside a new log: models, states, events. Files
  /// of other names stay, and everything does where no run's log shows that the files are a run's.
  void clear();

 private:
  int lock_ = -1;
};

}  // namespace sparsegrad::finetune
