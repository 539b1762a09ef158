// Ctrl-C, being asked to end, and a terminal that is closed.
#pragma once

#include <csignal>
#include <cstddef>
#include <vector>

namespace sparsegrad::finetune {

/// While one lives, the first SIGINT, SIGTERM or SIGHUP only sets a flag, so that a run can finish its step and save; a
/// second one ends the process as usual. A SIGHUP that is ignored (nohup) stays so. For the main thread, which is the one
/// that the system hands such signals to.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool requested();

 private:
  // Where the handler runs. oneDNN 2.6's float products keep numbers below the stack pointer, further than the 128 bytes
  // that a handler on the same stack leaves alone: about half of the runs that were interrupted died of it.
  std::vector<std::byte> handler_stack_;
  stack_t stack_before_{};
  bool hang_up_counts_ = true;
};

/// Exit status of a program that was interrupted.
inline constexpr int interrupted_status = 130;

}  // namespace sparsegrad::finetune
