// A bar on the terminal.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <sparsegrad/core/config.hpp>

namespace sparsegrad::finetune {

/// One line on stderr that shows how far something is; nothing where stderr is no terminal.
class ProgressBar {
 public:
  explicit ProgressBar(bool wanted);
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// At most ten times a second, and when done == total.
  void show(std::string_view what, index_t done, index_t total, std::string_view note = {});
  /// Removes the line, so that other text can be printed.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool on_;
  bool shown_ = false;
  std::string what_;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace sparsegrad::finetune
