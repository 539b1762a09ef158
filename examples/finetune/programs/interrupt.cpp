#include "programs/interrupt.hpp"

#include <csignal>

namespace sparsegrad::finetune {

namespace {

// A signal handler reaches nothing but this.
volatile std::sig_atomic_t interrupt_requested = 0;

void note_interrupt(int) {
  interrupt_requested = 1;
}

/// What was set before. SA_RESETHAND: a second signal finds the system's own action.
struct sigaction set_action(int number, void (*handler)(int), int flags) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(number, &action, &before);
  return before;
}

}  // namespace

InterruptGuard::InterruptGuard() : handler_stack_(std::size_t{64} << 10) {
  interrupt_requested = 0;
  stack_t stack{};
  stack.ss_sp = handler_stack_.data();
  stack.ss_size = handler_stack_.size();
  sigaltstack(&stack, &stack_before_);
  const int flags = static_cast<int>(SA_ONSTACK | SA_RESETHAND | SA_RESTART);
  set_action(SIGINT, note_interrupt, flags);
  set_action(SIGTERM, note_interrupt, flags);
  hang_up_counts_ = set_action(SIGHUP, note_interrupt, flags).sa_handler != SIG_IGN;
  if (!hang_up_counts_) set_action(SIGHUP, SIG_IGN, 0);
}

InterruptGuard::~InterruptGuard() {
  set_action(SIGINT, SIG_DFL, 0);
  set_action(SIGTERM, SIG_DFL, 0);
  if (hang_up_counts_) set_action(SIGHUP, SIG_DFL, 0);
  sigaltstack(&stack_before_, nullptr);
}

bool InterruptGuard::requested() {
  return interrupt_requested != 0;
}

}  // namespace sparsegrad::finetune
