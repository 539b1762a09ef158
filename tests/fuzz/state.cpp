// libFuzzer target: a file's basis, optimizer state and delta are read or refused by an IoError; what was read
// is written so that it reads equal.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/extras/sparse_sgd.hpp>
#include <sparsegrad/io/state_file.hpp>

#include "support/fuzz.hpp"

using namespace sparsegrad;
using B = backend::Reference;

namespace {

std::vector<std::byte> bytes_of(const io::SafetensorsWriter& writer) {
  return writer.bytes();
}

/// Writes what `read` reads from the file, reads that, and compares what is written again.
template <class Read>
void check(const io::SafetensorsFile& file, Read read) {
  std::vector<std::byte> written;
  try {
    io::SafetensorsWriter writer;
    read(file, writer);
    written = bytes_of(writer);
  } catch (const IoError&) {
    return;  // refused: as it should be
  }
  try {
    const io::SafetensorsFile again(io::FileBytes::from(written), "written");
    io::SafetensorsWriter writer;
    read(again, writer);
    fuzz::require(bytes_of(writer) == written, "what was written and read is written differently");
  } catch (const IoError& error) {
    fuzz::require(false, std::string("what was written is refused: ") + error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  static B::Context ctx;
  const fuzz::MemoryBound bound(size);
  try {
    const io::SafetensorsFile file(io::FileBytes::from({bytes, bytes + size}), "input");
    check(file, [](const io::SafetensorsFile& in, io::SafetensorsWriter& out) {
      io::put(ctx, out, "basis.", *io::get_basis<float, B>(ctx, in, "basis."));
    });
    check(file, [](const io::SafetensorsFile& in, io::SafetensorsWriter& out) {
      io::put_state(out, "adam.", io::get_state<float>(in, "adam."));
    });
    check(file, [](const io::SafetensorsFile& in, io::SafetensorsWriter& out) {
      io::put(ctx, out, "adam.", io::get_adam<float, B>(ctx, in, "adam."));
    });
    check(file, [](const io::SafetensorsFile& in, io::SafetensorsWriter& out) {
      SparseSgd<float, B> sgd(ctx, 3, 4, {});
      io::get(ctx, in, "sgd.", sgd);
      io::put(ctx, out, "sgd.", sgd);
    });
    check(file, [](const io::SafetensorsFile& in, io::SafetensorsWriter& out) {
      io::put(ctx, out, "delta.", io::get_delta<float, B>(ctx, in, "delta."));
    });
  } catch (const IoError& error) {  // no safetensors file
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_safetensors(data, size, max_size, seed);
}
