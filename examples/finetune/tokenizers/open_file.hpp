// Files that are opened for reading, and the system's reason where they cannot be.
#pragma once

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace sparsegrad::finetune {

/// A file opened for reading, as bytes. Throws `Thrown` with path and reason, "f.json: cannot be opened: No such file or
/// directory"; without the reason where the system leaves none in errno.
template <class Thrown>
std::ifstream open_file(const std::filesystem::path& file, std::ios::openmode more = {}) {
  errno = 0;
  std::ifstream stream(file, std::ios::binary | more);
  const int code = errno;
  if (stream) return stream;
  const std::string reason = code == 0 ? "" : ": " + std::generic_category().message(code);
  throw Thrown(file.string() + ": cannot be opened" + reason);
}

}  // namespace sparsegrad::finetune
