#include "programs/interrupt.hpp"

#include <csignal>

namespace sparsegrad::finetune {

namespace {

// A signal handler reaches nothing but this.
volatile std::sig_atomic_t interrupt_requested = 0;

void note_interrupt(int number) {
  interrupt_requested = 1;
  std::signal(number, SIG_DFL);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupt_requested = 0;
  std::signal(SIGINT, note_interrupt);
  std::signal(SIGTERM, note_interrupt);
  hang_up_counts_ = std::signal(SIGHUP, note_interrupt) != SIG_IGN;
  if (!hang_up_counts_) std::signal(SIGHUP, SIG_IGN);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (hang_up_counts_) std::signal(SIGHUP, SIG_DFL);
}

bool InterruptGuard::requested() {
  return interrupt_requested != 0;
}

}  // namespace sparsegrad::finetune
