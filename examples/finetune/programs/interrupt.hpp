// Ctrl-C, and being asked to end.
#pragma once

namespace sparsegrad::glue {

/// While one lives, the first SIGINT or SIGTERM only sets a flag, so that a run can finish its step and save; a second
/// one ends the process as usual.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool requested();
};

/// Exit status of a program that was interrupted.
inline constexpr int interrupted_status = 130;

}  // namespace sparsegrad::glue
