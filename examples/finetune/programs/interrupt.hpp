// Ctrl-C, being asked to end, and a terminal that is closed.
#pragma once

namespace sparsegrad::finetune {

/// While one lives, the first SIGINT, SIGTERM or SIGHUP only sets a flag, so that a run can finish its step and save; a
/// second one ends the process as usual. A SIGHUP that is ignored (nohup) stays so.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool requested();

 private:
  bool hang_up_counts_ = true;
};

/// Exit status of a program that was interrupted.
inline constexpr int interrupted_status = 130;

}  // namespace sparsegrad::finetune
