// Scalars in TensorBoard's event files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sparsegrad::finetune {

/// CRC-32C (Castagnoli), as in RFC 3720.
std::uint32_t crc32c(std::string_view bytes);

/// Appends records to FOLDER/events.out.tfevents.<second of opening>.sparsegrad. Format: TensorFlow's TFRecord of
/// tensorflow.Event messages (their public .proto files). A crash costs at most the record being written: readers end a
/// file at a torn record and go on with the next file.
class EventFile {
 public:
  /// Opens a new file, which readers take after all files of `folder`. It begins with a SessionLog START at `first_step`:
  /// readers forget what earlier files say of this step and later ones. Throws IoError with the system's reason.
  explicit EventFile(const std::filesystem::path& folder, std::int64_t first_step = 0);

  using Scalars = std::vector<std::pair<std::string, double>>;
  /// One event: all scalars of a step. Throws IoError.
  void add(std::int64_t step, const Scalars& scalars);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::string_view event);

  std::filesystem::path path_;
};

}  // namespace sparsegrad::finetune
