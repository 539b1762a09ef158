// libFuzzer target: a folder with tokenizer.json and what may stand beside it is a tokenizer or is refused by
// a TokenizerError. The input: tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json and a text.
#include <cstddef>
#include <cstdint>

#include "support/fuzz.hpp"
#include "tokenizer_checks.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::Folders folders(
      {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"});
  const auto parts = fuzz::sections(fuzz::text_of(data, size), 5);
  test::check_folder(folders, parts, size);
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
