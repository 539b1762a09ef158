// libFuzzer target: any bytes load as a safetensors file or are refused by an IoError, and what was read is
// written so that it reads equal.
#include "sparsegrad/io/safetensors.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/fuzz.hpp"

using namespace sparsegrad;

namespace {

/// Reads all that the file has, and returns it written anew.
std::vector<std::byte> read_all(const io::SafetensorsFile& file) {
  io::SafetensorsWriter writer;
  for (const auto& [key, text] : file.metadata())
    writer.metadata(key, text);
  for (const std::string& name : file.names()) {
    const io::Tensor tensor = file.find(name);
    index_t count = 1;
    for (const index_t extent : tensor.shape)
      count *= extent;
    fuzz::require(count == tensor.count(), "a tensor's shape is not that of its data");
    try {
      const auto numbers = file.read_as<double>(name);
      fuzz::require(static_cast<index_t>(numbers.size()) == count, "read_as gives too few numbers");
    } catch (const IoError&) {  // no floating-point type
    }
    try {
      fuzz::require(static_cast<index_t>(file.read<std::int64_t>(name).size()) == count, "read of I64");
    } catch (const IoError&) {  // another type
    }
    writer.add(name, tensor.dtype, tensor.shape, tensor.bytes);
  }
  return writer.bytes();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const fuzz::MemoryBound bound(size);
  try {
    const io::SafetensorsFile file(io::FileBytes::from({bytes, bytes + size}), "input");
    const std::vector<std::byte> written = read_all(file);
    try {
      const io::SafetensorsFile again(io::FileBytes::from(written), "written");
      fuzz::require(again.metadata() == file.metadata(), "the metadata differ after writing");
      fuzz::require(again.names().size() == file.names().size(), "names are lost in writing");
      for (const std::string& name : file.names()) {
        const io::Tensor a = file.find(name);
        const io::Tensor b = again.find(name);
        fuzz::require(a.dtype == b.dtype && a.shape == b.shape &&
                          std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()),
                      "a tensor differs after writing");
      }
      fuzz::require(read_all(again) == written, "a file that was read is written differently");
    } catch (const IoError& error) {
      fuzz::require(false, std::string("what was written is refused: ") + error.what());
    }
  } catch (const IoError& error) {  // refused: as it should be
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_safetensors(data, size, max_size, seed);
}
