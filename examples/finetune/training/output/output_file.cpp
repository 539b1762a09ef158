#include "training/output/output_file.hpp"

#include <span>
#include <system_error>

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/io/file_bytes.hpp>

namespace sparsegrad::finetune {

namespace fs = std::filesystem;

void write_file(const fs::path& path, std::string_view text) {
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span<const char>(text))};
  io::write_file(path.string(), parts);
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw IoError(path.string() + ": cannot make this folder: " + error.message());
  if (!fs::is_directory(path, error))
    throw IoError(path.string() + ": expected a folder, found something else");
}

}  // namespace sparsegrad::finetune
