// Files as bytes: reading whole, and writing so that an old file stays whole until the new one is.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#define SPARSEGRAD_IO_POSIX 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "../core/error.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io {

namespace detail {

inline IoError system_error(const std::string& path, const std::string& what, int code) {
  return IoError((path.empty() ? "a file without a name" : path) + ": " + what + ": " +
                 std::generic_category().message(code));
}

#if defined(SPARSEGRAD_IO_POSIX)

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// A file that stays open.
struct OpenFile {
  // O_NONBLOCK: a pipe without a writer is refused later and not waited for.
  explicit OpenFile(const std::string& name)
      : path(name), fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  std::string path;
  Descriptor fd;
};

/// Reads from a file that had `size` bytes when it was opened.
inline void read_all(const OpenFile& file, std::size_t size, std::size_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    constexpr std::size_t at_once = std::size_t{1} << 30;
    const std::size_t wanted = to.size() < at_once ? to.size() : at_once;
    const ssize_t got = ::pread(file.fd.get(), to.data(), wanted, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw system_error(file.path, "cannot be read", errno);
    if (got == 0) {
      throw IoError(file.path + ": ends at byte " + std::to_string(offset) + " or before, but had " +
                    std::to_string(size) + " bytes when it was opened: it was shortened while it was read");
    }
    offset += static_cast<std::size_t>(got);
    to = to.subspan(static_cast<std::size_t>(got));
  }
}

/// The file that `path` names, by way of symbolic links, whether it exists or not. Throws IoError
/// when they are too many to be no loop.
inline std::string resolved(const std::string& path) {
  constexpr int most_links = 40;  // as Linux has it
  std::filesystem::path target = path;
  std::error_code code;
  for (int links = 0; std::filesystem::is_symlink(target, code); ++links) {
    if (links == most_links)
      throw IoError(path + ": cannot be written: more than 40 symbolic links follow one another");
    const std::filesystem::path next = std::filesystem::read_symlink(target, code);
    if (code) break;
    target = target.parent_path() / next;  // an absolute one stands for itself
  }
  return target.string();
}

/// What `call()` returns, called again as long as a signal interrupts it.
template <class Call>
int uninterrupted(Call call) {
  int result = call();
  while (result < 0 && errno == EINTR)
    result = call();
  return result;
}

/// 0, or the error's code.
inline int write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    constexpr std::size_t at_once = std::size_t{1} << 30;
    const ssize_t written = ::write(fd, bytes.data(), bytes.size() < at_once ? bytes.size() : at_once);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return 0;
}

#endif

}  // namespace detail

/// The bytes of a file, mapped into memory where the system can, read otherwise. Copies share them.
/// Replacing the file, as `write_file` does, is harmless. Where another process shortens it, `copy`
/// throws; a look at `bytes` beyond its new end is a SIGBUS, which no program can turn into a
/// message of its own without a handler for the whole process.
class FileBytes {
 public:
  FileBytes() = default;

  /// Throws IoError when the file cannot be opened or read, or is no regular file.
  static FileBytes open(const std::string& path) {
    FileBytes file;
#if defined(SPARSEGRAD_IO_POSIX)
    const auto source = std::make_shared<detail::OpenFile>(path);
    const int fd = source->fd.get();
    if (fd < 0) throw detail::system_error(path, "cannot be opened", errno);
    struct stat status {};
    if (::fstat(fd, &status) != 0) throw detail::system_error(path, "cannot be read", errno);
    if (!S_ISREG(status.st_mode)) throw IoError(path + ": is not a regular file");
    file.size_ = static_cast<std::size_t>(status.st_size);
    if (file.size_ == 0) return file;
    void* p = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) throw detail::system_error(path, "cannot be mapped", errno);
    const std::size_t size = file.size_;
    file.data_ = std::shared_ptr<const std::byte>(
        static_cast<const std::byte*>(p),
        [size](const std::byte* q) { ::munmap(const_cast<std::byte*>(q), size); });
    file.source_ = source;
#else
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    if (!in) throw detail::system_error(path, "cannot be opened", errno);
    std::vector<std::byte> bytes(static_cast<std::size_t>(in.tellg()));
    in.seekg(0);
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in) throw IoError(path + ": cannot be read");
    file = from(std::move(bytes));
#endif
    return file;
  }

  /// Takes over bytes in memory.
  static FileBytes from(std::vector<std::byte> bytes) {
    FileBytes file;
    const auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
    file.size_ = owner->size();
    file.data_ = std::shared_ptr<const std::byte>(owner, owner->data());
    return file;
  }

  /// The bytes, which live as long as this object or a copy of it.
  std::span<const std::byte> bytes() const {
    return {data_.get(), size_};
  }

  /// Copies the bytes from `offset` on, as many as `to` has; they must be within `bytes()`. Throws
  /// IoError when the file has become too short for that, or cannot be read.
  void copy(std::size_t offset, std::span<std::byte> to) const {
    if (to.empty()) return;
#if defined(SPARSEGRAD_IO_POSIX)
    if (source_ != nullptr) return detail::read_all(*source_, size_, offset, to);
#endif
    std::memcpy(to.data(), data_.get() + offset, to.size());
  }

 private:
  std::shared_ptr<const std::byte> data_;
  std::size_t size_ = 0;
#if defined(SPARSEGRAD_IO_POSIX)
  std::shared_ptr<const detail::OpenFile> source_;  ///< null for bytes in memory
#endif
};

/// Writes the parts one after the other to `path`. They go to a file "<path>.tmp-<process>-<n>"
/// beside it (".tmp-<process>-<n>" where that name is too long), which is flushed to the disk and
/// then takes the path's name, in one move: whatever fails, the old file stays as it was, and the
/// file beside it is removed. A path that exists and is no regular file (a device, a pipe) is
/// written to directly; a symbolic link is followed, also to a file that is not there yet. Throws
/// IoError with the system's reason.
///
/// `part(i)` gives part i of `count`, as a span that is good until the next call: so that a file may
/// be larger than memory. What it throws is passed on, and the old file stays as it was.
template <class Part>
void write_file(const std::string& path, std::size_t count, Part&& part) {
#if defined(SPARSEGRAD_IO_POSIX)
  const std::string target = detail::resolved(path);
  struct stat status {};
  const bool exists = ::stat(target.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) throw detail::system_error(path, "cannot be written", EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    const detail::Descriptor fd(
        detail::uninterrupted([&] { return ::open(target.c_str(), O_WRONLY | O_CLOEXEC); }));
    if (fd.get() < 0) throw detail::system_error(path, "cannot be opened for writing", errno);
    for (std::size_t i = 0; i < count; ++i) {
      const int code = detail::write_all(fd.get(), part(i));
      if (code != 0) throw detail::system_error(path, "cannot be written", code);
    }
    return;
  }

  std::string start = target;
  std::string aside;
  int opened = -1;
  for (int attempt = 0; opened < 0; ++attempt) {
    aside = start + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
    opened = detail::uninterrupted(
        [&] { return ::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
    if (opened < 0 && errno == ENAMETOOLONG && start == target) {
      start.resize(target.rfind('/') + 1);  // the folder; npos + 1 is 0
      continue;
    }
    if (opened < 0 && (errno != EEXIST || attempt == 1000)) {
      throw detail::system_error(path, "cannot create " + aside, errno);
    }
  }
  detail::Descriptor fd(opened);
  const auto fail = [&](const char* what, int code) {
    ::unlink(aside.c_str());
    throw detail::system_error(path, what, code);
  };
  try {
    for (std::size_t i = 0; i < count; ++i) {
      const int code = detail::write_all(fd.get(), part(i));
      if (code != 0) throw detail::system_error(path, "cannot be written", code);
    }
  } catch (...) {
    ::unlink(aside.c_str());
    throw;
  }
  if (exists) (void)::fchmod(fd.get(), status.st_mode & 07777);
  if (detail::uninterrupted([&] { return ::fsync(fd.get()); }) != 0)
    fail("cannot be flushed to the disk", errno);
  if (::close(fd.release()) != 0) fail("cannot be closed", errno);
  if (::rename(aside.c_str(), target.c_str()) != 0) fail("cannot be replaced", errno);
  // The new name itself is on the disk once its folder is. Not every file system can do it, and the
  // data are
  // safe.
  const std::filesystem::path folder = std::filesystem::path(target).parent_path();
  const detail::Descriptor directory(
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) (void)::fsync(directory.get());
#else
  const std::string aside = path + ".tmp";
  try {
    std::ofstream out(aside, std::ios::binary | std::ios::trunc);
    for (std::size_t i = 0; i < count; ++i) {
      const std::span<const std::byte> bytes = part(i);
      out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    out.close();
    if (!out) throw IoError(path + ": cannot be written");
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(aside, ignored);
    throw;
  }
  std::error_code code;
  std::filesystem::rename(aside, path, code);
  if (code) {
    std::error_code ignored;
    std::filesystem::remove(aside, ignored);
    throw IoError(path + ": cannot be replaced: " + code.message());
  }
#endif
}

/// The same of parts that are all there.
inline void write_file(const std::string& path, std::span<const std::span<const std::byte>> parts) {
  write_file(path, parts.size(), [&](std::size_t i) { return parts[i]; });
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io
