// libFuzzer target: what is put on a model's weights, a delta, a GGUF adapter or a peft folder, is read or refused by a
// ModelError or an IoError. An adapter has its matrices whole and finite; a delta is equal after writing and reading. The
// input: adapter_config.json and adapter_model.safetensors; or, the first being empty, a delta or a GGUF file.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <sparsegrad/core/float_bits.hpp>

#include "checkpoints/adapter_reader.hpp"
#include "checkpoints/delta_file.hpp"
#include "checkpoints/weight_change.hpp"
#include "refusals.hpp"
#include "support/fuzz.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad;
using namespace sparsegrad::finetune;
using sparsegrad::finetune::test::may_refuse;

namespace {

DecoderConfig small_config() {
  DecoderConfig config;
  config.vocab_size = 3;
  config.max_positions = 8;
  config.layers = 1;
  config.hidden = 4;
  config.intermediate = 6;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_size = 2;
  config.tied_embeddings = true;
  return config;
}

void check_adapter(const std::filesystem::path& path, const DecoderConfig& config) {
  const Adapter adapter = read_adapter(path, config);
  fuzz::require(adapter.rank >= 1 && !adapter.matrices.empty(), "an empty adapter is taken");
  fuzz::require(is_finite(adapter.scale) && adapter.scale > 0, "the scale is no number above 0");
  for (const AdapterMatrix& m : adapter.matrices) {
    const auto rank = static_cast<std::size_t>(adapter.rank);
    fuzz::require(m.a.size() == rank * static_cast<std::size_t>(m.extents.in) &&
                      m.b.size() == rank * static_cast<std::size_t>(m.extents.out),
                  "a matrix has another number of elements");
    for (const auto* values : {&m.a, &m.b})
      for (const float x : *values)
        fuzz::require(is_finite(x), "NaN or Inf is taken");
  }
}

void check_delta(const std::filesystem::path& path, const std::vector<ParameterShape>& shapes) {
  static const fuzz::TemporaryFolder folder;
  const std::filesystem::path copy = folder.path() / "copy.safetensors";
  const Delta delta = read_delta(path, shapes);
  write_delta(copy, delta, shapes);
  const Delta again = read_delta(copy, shapes);
  fuzz::require(again.base == delta.base && again.parameters.size() == delta.parameters.size(),
                "the copy is of another base");
  for (const auto& [name, d] : delta.parameters) {
    const ParameterDelta& c = again.parameters.at(name);
    fuzz::require(
        c.positions == d.positions && c.values == d.values && c.rank == d.rank && c.a == d.a && c.b == d.b,
        "the copy of " + name + " is another one");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::Folders peft({"adapter_config.json", "adapter_model.safetensors"});
  static fuzz::Folders delta({"changed.safetensors"});
  static fuzz::Folders gguf({"adapter.gguf"});
  static const DecoderConfig config = small_config();
  static const std::vector<ParameterShape> shapes = decoder_shapes(config, {}, 0);
  const auto parts = fuzz::sections(fuzz::text_of(data, size), 2);
  const bool is_gguf = parts[0].empty() && parts[1].starts_with("GGUF");
  const std::filesystem::path path = !parts[0].empty() ? peft.with(parts)
                                     : is_gguf         ? gguf.with({parts[1]}) / "adapter.gguf"
                                                       : delta.with({parts[1]}) / "changed.safetensors";
  const fuzz::MemoryBound bound(size, 1000);
  may_refuse([&] {
    const auto change = read_weight_change(path, config);
    fuzz::require(!change->text().empty(), "a change has no text");
    for (const ParameterShape& p : shapes) {
      std::vector<float> values(static_cast<std::size_t>(p.rows * p.cols));
      if (change->reads(p.name)) change->apply(p.name, values);
    }
  });
  if (parts[0].empty() && !is_gguf && !parts[1].empty())
    may_refuse([&] { check_delta(path, shapes); });
  else
    may_refuse([&] { check_adapter(path, config); });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t config = std::min(input.find('\x1E'), size);
  if (seed % 8 == 0 || config == size) return LLVMFuzzerMutate(data, size, max_size);
  const std::size_t begin = config + 1;
  if (config > 0 && seed % 2 == 0) return fuzz::mutate_first_json(data, size, max_size, seed / 8);
  if (input.substr(begin).starts_with("GGUF"))
    return begin + LLVMFuzzerMutate(data + begin, size - begin, max_size - begin);
  return begin + fuzz::mutate_safetensors(data + begin, size - begin, max_size - begin, seed / 8);
}
