#include "checkpoints/written_folder.hpp"

#include <system_error>

#include <sparsegrad/core/number.hpp>

#include "models/model_error.hpp"

namespace sparsegrad::finetune {

namespace {

void write_bytes(const std::filesystem::path& file, std::span<const std::byte> bytes) {
  const std::span<const std::byte> parts[] = {bytes};
  io::write_file(file.string(), parts);
}

}  // namespace

void detail::refuse_narrowing(const std::string& tensor, index_t count, double largest, io::DType type) {
  const bool half = type == io::DType::f16;
  throw ModelError("the tensor \"" + tensor + "\" has numbers without room in " +
                   (half ? "F16, whose largest is 65504" : "the type of the file") + ": " +
                   std::to_string(count) + " of them, up to " + number_text(largest) + "; " +
                   (half ? "BF16 and float have it" : "float has it"));
}

void make_model_folder(const std::filesystem::path& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code) throw ModelError(path.string() + ": cannot be created: " + code.message());
}

void copy_files(const std::filesystem::path& from, const std::filesystem::path& to,
                std::span<const char* const> names) {
  std::error_code code;
  if (std::filesystem::equivalent(to, from, code)) return;
  for (const char* name : names) {
    const std::filesystem::path file = from / name;
    if (!std::filesystem::exists(file)) continue;
    const io::FileBytes source = io::FileBytes::open(file.string());
    std::vector<std::byte> bytes(source.bytes().size());
    source.copy(0, bytes);
    write_bytes(to / name, bytes);
  }
}

void write_text(const std::filesystem::path& file, const std::string& text) {
  write_bytes(file, std::as_bytes(std::span<const char>(text)));
}

}  // namespace sparsegrad::finetune
