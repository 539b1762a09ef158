// libFuzzer target: a folder with tokenizer.json and what may stand beside it is a causal tokenizer or is refused by a
// TokenizerError. The input: tokenizer.json, tokenizer_config.json, generation_config.json and a text.
#include <cstddef>
#include <cstdint>

#include "causal_checks.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::Folders folders({"tokenizer.json", "tokenizer_config.json", "generation_config.json"});
  const auto parts = fuzz::sections(fuzz::text_of(data, size), 4);
  const auto folder = folders.with(parts);
  const fuzz::MemoryBound bound(size, 1000);
  try {
    test::check_causal(*load_causal_tokenizer(folder), parts.back());
  } catch (const TokenizerError& error) {  // refused: as it should be
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
