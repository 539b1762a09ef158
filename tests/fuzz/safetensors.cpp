// libFuzzer target: any bytes load as a safetensors file or are refused by an IoError.
#include "sparsegrad/io/safetensors.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sparsegrad;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  try {
    const io::SafetensorsFile file(io::FileBytes::from({bytes, bytes + size}), "input");
    for (const std::string& name : file.names()) {
      const io::Tensor tensor = file.find(name);
      unsigned sum = 0;
      for (const std::byte b : tensor.bytes)
        sum += static_cast<unsigned>(b);
      index_t count = 1;
      for (const index_t extent : tensor.shape)
        count *= extent;
      if (count != tensor.count() || sum > 255 * tensor.bytes.size()) std::abort();
    }
  } catch (const IoError&) {  // refused: as it should be
  }
  return 0;
}
