#include "training/output/console.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace sparsegrad::finetune {

namespace {

int output_error = 0;

void note(bool written) {
  if (!written && output_error == 0) output_error = errno != 0 ? errno : EIO;
}

}  // namespace

void prepare_console() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // For reading alone: what is printed there is refused, and counts as lost.
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF) (void)::open("/dev/null", O_RDONLY);
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

void print_text(std::string_view text) {
  note(std::fwrite(text.data(), 1, text.size(), stdout) == text.size());
}

void flush_output() {
  note(std::fflush(stdout) == 0);
}

std::string lost_output() {
  flush_output();
  note(std::ferror(stdout) == 0);  // others print there, too
  return output_error == 0 ? "" : std::strerror(output_error);
}

void print_error_text(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
  (void)std::fflush(stderr);
}

}  // namespace sparsegrad::finetune
