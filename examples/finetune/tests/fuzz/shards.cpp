// libFuzzer target: a folder with model.safetensors.index.json and two shards is a model's tensors, each of which is found,
// or is refused by a ModelError or an IoError. The input: the index and the shards.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/model_weights.hpp"
#include "refusals.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad;
using namespace sparsegrad::finetune;
using sparsegrad::finetune::test::may_refuse;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::Folders folders({"model.safetensors.index.json", "a.safetensors", "b.safetensors"});
  const auto folder = folders.with(fuzz::sections(fuzz::text_of(data, size), 3));
  const fuzz::MemoryBound bound(size);
  may_refuse([&] {
    const ModelWeights weights(folder);
    fuzz::require(!weights.names().empty(), "an index without tensors is taken");
    for (const std::string& name : weights.names()) {
      const io::Tensor tensor = weights.find(name);
      may_refuse([&] {  // other types than floating point, NaN
        fuzz::require(static_cast<index_t>(weights.read_as<float>(name).size()) == tensor.count(),
                      "read_as gives another number of elements");
      });
    }
    for (const std::string& name : weights.spelled("bert.x"))
      weights.find(name);
    weights.unlisted("bert.x");
  });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  // Most changes of a shard break its header, which the target "safetensors" has for itself.
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t index = std::min(input.find('\x1E'), size);
  if (seed % 8 == 0 || index == size) return LLVMFuzzerMutate(data, size, max_size);
  return fuzz::mutate_first_json(data, size, max_size, seed / 8);
}
