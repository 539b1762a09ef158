#include "training/output/progress_bar.hpp"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "training/output/console.hpp"

namespace sparsegrad::finetune {

ProgressBar::ProgressBar(bool wanted) : on_(wanted && isatty(STDERR_FILENO) == 1) {}

void ProgressBar::show(std::string_view what, index_t done, index_t total, std::string_view note) {
  if (!on_ || total <= 0) return;
  const Clock::time_point now = Clock::now();
  if (what != what_) {
    what_ = what;
    start_ = now;
    last_ = {};
  }
  if (done < total && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left = done > 0 ? seconds * static_cast<double>(total - done) / static_cast<double>(done) : 0;
  constexpr index_t width = 30;
  const auto filled = static_cast<std::size_t>(width * std::min(done, total) / total);
  print_error("\r\033[K{} [{:#<{}}{:.<{}}] {}/{} {:.0f} s left {}", what, "", filled, "",
              static_cast<std::size_t>(width) - filled, done, total, left, note);
  shown_ = true;
}

void ProgressBar::clear() {
  if (!shown_) return;
  print_error("\r\033[K");
  shown_ = false;
}

}  // namespace sparsegrad::finetune
