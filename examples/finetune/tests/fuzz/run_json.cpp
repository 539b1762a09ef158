// libFuzzer target: any bytes as the run.json that a resume finds are read or refused by a ModelError (no JSON) or a
// ValueError (another run).
#include <cstddef>
#include <cstdint>

#include "models/model_error.hpp"
#include "support/fuzz.hpp"
#include "training/output/train_output.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  file.set(fuzz::text_of(data, size));
  const fuzz::MemoryBound bound(size);
  try {
    (void)is_finished(file.path(), TrainOptions());
  } catch (const ModelError& error) {
    fuzz::refused(error);
  } catch (const sparsegrad::Error& error) {
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
