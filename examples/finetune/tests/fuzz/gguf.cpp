// libFuzzer target: a GGUF file is read or refused by an IoError; so are its tokenizer and configuration, these by a
// ModelError too. Tensors have the values that their shape says, keys a text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "causal_checks.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_tokenizer.hpp"
#include "refusals.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad;
using namespace sparsegrad::finetune;
using sparsegrad::finetune::test::may_refuse;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const fuzz::MemoryBound bound(size, 1000);
  may_refuse([&] {
    const GgufFile file(io::FileBytes::from({bytes, bytes + size}), "file");
    for (const std::string& key : file.keys())
      fuzz::require(!file.text_of(key).empty() || file.get<std::string_view>(key).has_value(),
                    "a key has no text");
    for (const GgufTensor& tensor : file.tensors()) {
      fuzz::require(&file.tensor(tensor.name) == &tensor, "a tensor is not found");
      may_refuse([&] {
        std::vector<float> row(static_cast<std::size_t>(tensor.cols()));
        file.dequantize(tensor, 0, 1, row);
        file.dequantize(tensor, tensor.rows() - 1, tensor.rows(), row);
      });
    }
    may_refuse([&] { test::check_causal(*gguf_tokenizer(file), "hello"); });
    may_refuse([&] {
      const DecoderConfig config = gguf_config(file);
      fuzz::require(config.heads % config.kv_heads == 0, "an impossible configuration is taken");
      gguf_parameter(file, config, "model.embed_tokens.weight", config.vocab_size, config.hidden);
    });
  });
  return 0;
}
