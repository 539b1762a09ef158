// Preloaded into a program (LD_PRELOAD), it makes one of the calls fail that write to a folder: see FaultPlan. Calls that
// the C library makes by itself (fopen's, fwrite's) do not pass here; of those the program uses std::ofstream's alone,
// which do.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

namespace {

/// Read from the environment.
struct FaultPlan {
  const char* folder = getenv("FAULTS_IN");  ///< calls on what is below it count
  const char* log = getenv("FAULTS_LOG");    ///< file that each fault is noted in
  const char* kind =
      getenv("FAULTS_KIND");      ///< an error's number, or short, kill, tear or a signal's number after "-"
  long at = number("FAULTS_AT");  ///< which call fails, from 1
  bool lasting = number("FAULTS_LASTING") > 0;  ///< and all after it

  static long number(const char* name) {
    const char* text = getenv(name);
    return text == nullptr ? 0 : atol(text);
  }
};

const FaultPlan& plan() {
  static const FaultPlan made;
  return made;
}

std::atomic<long> calls{0};

/// The C library's function of this name.
template <class F>
F real(F, const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}
#define REAL(name) real(&name, #name)

bool is_below(const char* path) {
  const size_t length = strlen(plan().folder);
  return strncmp(path, plan().folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

bool is_below(int fd) {
  char name[64];
  char path[4096];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(name, path, sizeof path - 1);
  if (size < 0) return false;
  path[size] = '\0';
  return is_below(path);
}

void note(const char* call) {
  if (plan().log == nullptr) return;
  // Past this library's own functions.
  const long fd = syscall(SYS_openat, AT_FDCWD, plan().log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  syscall(SYS_write, fd, call, strlen(call));
  syscall(SYS_write, fd, "\n", 1);
  syscall(SYS_close, fd);
}

enum class Fault { none, error, part, part_then_death };

/// What happens to this call. Death before a call, and signals, happen here.
template <class Place>
Fault fault_of(const char* call, Place place) {
  if (plan().folder == nullptr || plan().kind == nullptr) return Fault::none;
  const int before = errno;
  const bool counts = is_below(place);
  errno = before;
  if (!counts) return Fault::none;
  const long number = ++calls;
  if (number != plan().at && !(plan().lasting && number > plan().at)) return Fault::none;
  note(call);
  const char* kind = plan().kind;
  if (strcmp(kind, "short") == 0) return Fault::part;
  if (strcmp(kind, "tear") == 0) return Fault::part_then_death;
  if (strcmp(kind, "kill") == 0) raise(SIGKILL);
  if (kind[0] == '-') {
    raise(atoi(kind + 1));
    return Fault::none;
  }
  errno = atoi(kind);
  return Fault::error;
}

/// For calls that have no parts. An interrupted system call is none of those that a signal interrupts.
template <class Place>
bool fails(const char* call, Place place, bool can_be_interrupted = false) {
  if (!can_be_interrupted && plan().kind != nullptr && atoi(plan().kind) == EINTR) return false;
  switch (fault_of(call, place)) {
    case Fault::error:
      return true;
    case Fault::part_then_death:
      raise(SIGKILL);
      return false;
    default:
      return false;
  }
}

bool writes(int flags) {
  return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  if (writes(flags) && fails("open", path, true)) return -1;
  return REAL(open)(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  if (writes(flags) && fails("open", path, true)) return -1;
  return REAL(open64)(path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  if (mode[0] != 'r' && fails("fopen", path)) return nullptr;
  return REAL(fopen)(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  if (mode[0] != 'r' && fails("fopen", path)) return nullptr;
  return REAL(fopen64)(path, mode);
}

ssize_t write(int fd, const void* bytes, size_t size) {
  const Fault fault = fault_of("write", fd);
  if (fault == Fault::error) return -1;
  if (fault == Fault::none) return REAL(write)(fd, bytes, size);
  const ssize_t written = REAL(write)(fd, bytes, (size + 1) / 2);
  if (fault == Fault::part_then_death) raise(SIGKILL);
  return written;
}

ssize_t writev(int fd, const struct iovec* parts, int count) {
  const Fault fault = fault_of("writev", fd);
  if (fault == Fault::error) return -1;
  if (fault == Fault::none) return REAL(writev)(fd, parts, count);
  const ssize_t written = REAL(write)(fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2);
  if (fault == Fault::part_then_death) raise(SIGKILL);
  return written;
}

int fsync(int fd) {
  return fails("fsync", fd, true) ? -1 : REAL(fsync)(fd);
}

int close(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && writes(flags) && fails("close", fd)) {
    const int error = errno;
    REAL(close)(fd);  // it is closed all the same, as Linux has it
    errno = error;
    return -1;
  }
  return REAL(close)(fd);
}

int rename(const char* from, const char* to) {
  return fails("rename", to) ? -1 : REAL(rename)(from, to);
}
int mkdir(const char* path, mode_t mode) {
  return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}
int unlink(const char* path) {
  return fails("unlink", path) ? -1 : REAL(unlink)(path);
}
int remove(const char* path) {
  return fails("remove", path) ? -1 : REAL(remove)(path);
}
int fchmod(int fd, mode_t mode) {
  return fails("fchmod", fd) ? -1 : REAL(fchmod)(fd, mode);
}
int ftruncate(int fd, off_t size) noexcept {
  return fails("ftruncate", fd) ? -1 : REAL(ftruncate)(fd, size);
}

/// FAULTS_FREE: bytes that every disk says are free.
int statvfs(const char* path, struct statvfs* room) noexcept {
  const int status = REAL(statvfs)(path, room);
  if (getenv("FAULTS_FREE") != nullptr) {
    room->f_frsize = 1;
    room->f_bavail = static_cast<fsblkcnt_t>(atol(getenv("FAULTS_FREE")));
  }
  return status;
}

}  // extern "C"
