#include "training/output/output_file.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>

#include <sparsegrad/core/error.hpp>

namespace sparsegrad::glue {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void fail(const fs::path& path, const char* what, int error) {
  throw IoError(path.string() + ": " + what + ": " + std::strerror(error));
}

void write_directly(const fs::path& path, std::string_view text) {
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "wb"));
  if (!file) fail(path, "cannot be opened for writing", errno);
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0) {
    fail(path, "cannot be written", errno);
  }
  if (std::fclose(file.release()) != 0) fail(path, "cannot be written", errno);
}

}  // namespace

void write_file(const fs::path& path, std::string_view text) {
  std::error_code none;
  if (fs::exists(path, none) && !fs::is_regular_file(path, none)) return write_directly(path, text);
  fs::path aside = path;
  aside += ".partial";
  try {
    write_directly(aside, text);
  } catch (...) {
    fs::remove(aside, none);
    throw;
  }
  std::error_code error;
  fs::rename(aside, path, error);
  if (error) {
    fs::remove(aside, none);
    throw IoError(path.string() + ": cannot be replaced: " + error.message());
  }
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw IoError(path.string() + ": cannot make this folder: " + error.message());
  if (!fs::is_directory(path, error))
    throw IoError(path.string() + ": expected a folder, found something else");
}

}  // namespace sparsegrad::glue
