// Files that are whole or not there.
#pragma once

#include <filesystem>
#include <string_view>

namespace sparsegrad::finetune {

/// Writes `text` to `path` as io::write_file does: whoever reads it sees the old file or the new one. What is no ordinary
/// file (/dev/stdout) is written directly. Throws IoError with the system's reason.
void write_file(const std::filesystem::path& path, std::string_view text);

/// Makes the folder with its parents. Throws IoError with the system's reason.
void make_folder(const std::filesystem::path& path);

}  // namespace sparsegrad::finetune
