// libFuzzer target: a text is a side's recipe or is refused by a ValueError; the text of a recipe names it.
#include <cstddef>
#include <cstdint>
#include <string>

#include <sparsegrad/io/side_recipe_text.hpp>

#include "support/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sparsegrad;
  const fuzz::MemoryBound bound(size);
  try {
    const std::string text = to_string(parse_side_recipe(fuzz::text_of(data, size)));
    try {
      fuzz::require(to_string(parse_side_recipe(text)) == text, "'" + text + "' is read as another recipe");
    } catch (const ValueError& error) {
      fuzz::require(false, "a recipe's own text is refused: " + std::string(error.what()));
    }
  } catch (const ValueError& error) {  // refused: as it should be
    fuzz::refused(error);
  }
  return 0;
}
