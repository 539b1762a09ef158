#include "training/adapter_start.hpp"

#include <algorithm>
#include <set>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checkpoints/adapter_reader.hpp"
#include "checkpoints/delta_file.hpp"
#include "training/causal_source.hpp"

namespace sparsegrad::finetune {

TrainOptions options_of_start(const TrainOptions& options) {
  const std::filesystem::path& start = options.causal.value().start;
  constexpr const char* cure =
      "export --format merged --adapter writes a model with it, which any run can train";
  if (options.run_type != RunType::lora) {
    throw ValueError(fmt::format("--adapter begins runs of type lora, found --run-type {}; {}",
                                 to_string(options.run_type), cure));
  }
  std::error_code code;
  if (std::filesystem::is_regular_file(start, code) && is_delta(start))
    throw ValueError(
        fmt::format("{}: is a delta, expected a LoRA as --adapter of a run; {}", start.string(), cure));
  const CausalSource source(options.model);
  const Adapter adapter = read_adapter(start, source.config());
  TrainOptions result = options;
  result.lora.rank = adapter.rank;
  result.lora.scale = adapter.scale;
  std::set<index_t> blocks;
  std::set<MatrixKind> kinds;
  for (const AdapterMatrix& m : adapter.matrices) {
    blocks.insert(m.block);
    kinds.insert(m.kind);
  }
  std::vector<std::string_view> names;
  for (const MatrixKind kind : kinds)
    names.push_back(to_string(kind));
  result.causal->blocks = fmt::format("{}", fmt::join(blocks, ","));
  result.causal->matrices = fmt::format("{}", fmt::join(names, ","));
  return result;
}

}  // namespace sparsegrad::finetune
