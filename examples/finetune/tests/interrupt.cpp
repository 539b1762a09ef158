// InterruptGuard: the first signal sets a flag, on a stack of its own, and what was there before comes back.
#include <csignal>

#include <doctest/doctest.h>

#include "programs/interrupt.hpp"

using sparsegrad::finetune::InterruptGuard;

namespace {

struct sigaction action_of(int number) {
  struct sigaction action {};
  sigaction(number, nullptr, &action);
  return action;
}

bool has_handler_stack() {
  stack_t stack{};
  sigaltstack(nullptr, &stack);
  return (stack.ss_flags & SS_DISABLE) == 0;
}

}  // namespace

TEST_CASE("a guard's handler has a stack of its own and sets a flag once") {
  const bool before = has_handler_stack();
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    CAPTURE(number);
    {
      const InterruptGuard guard;
      CHECK(has_handler_stack());
      CHECK((action_of(number).sa_flags & SA_ONSTACK) != 0);
      CHECK_FALSE(InterruptGuard::requested());
      raise(number);
      CHECK(InterruptGuard::requested());
      CHECK((action_of(number).sa_handler == SIG_DFL));
    }
    CHECK((action_of(number).sa_handler == SIG_DFL));
    CHECK(has_handler_stack() == before);
  }
}

TEST_CASE("a hang-up that is ignored stays so") {
  std::signal(SIGHUP, SIG_IGN);
  {
    const InterruptGuard guard;
    raise(SIGHUP);
    CHECK_FALSE(InterruptGuard::requested());
  }
  CHECK((action_of(SIGHUP).sa_handler == SIG_IGN));
  std::signal(SIGHUP, SIG_DFL);
}
