#include <algorithm>

#include <fmt/format.h>

#include "models/layers/random.hpp"
#include "training/session_impl.hpp"

namespace sparsegrad::finetune {

namespace detail {

Dataset hold_out(Dataset& train, double share, index_t limit) {
  Dataset rest = train;
  Dataset held = train;
  rest.examples.clear();
  held.examples.clear();
  held.skipped = 0;
  held.name += " (held out)";
  const std::size_t count =
      limit > 0 ? std::min(train.examples.size(), static_cast<std::size_t>(limit)) : train.examples.size();
  constexpr std::uint64_t key = 0x48454C44;
  for (std::size_t i = 0; i < count; ++i) {
    const double place = static_cast<double>(mix_bits(key + i) >> 11) * 0x1p-53;
    (place < share ? held : rest).examples.push_back(train.examples[i]);
  }
  if (held.examples.empty() || rest.examples.empty()) {
    throw ValueError(
        fmt::format("--held-out {} of {} training examples leaves {} to train on and {} to evaluate on; give "
                    "a {} share",
                    share, count, rest.examples.size(), held.examples.size(),
                    held.examples.empty() ? "larger" : "smaller"));
  }
  train = std::move(rest);
  return held;
}

Dataset load_held_out(const Task& task, const DataSource& source, Split split, bool with_train) {
  try {
    return load_data(task, source, split);
  } catch (const DataError& error) {
    const bool missing = source.kind != "builtin" && !find_task_file(task, source.folder, split);
    if (!with_train || !missing) throw;
    throw DataError(std::string(error.what()) +
                    ". Or evaluate on a part of the training set: --held-out 0.1");
  }
}

}  // namespace detail

template class BasicSession<float, HostBackend>;

}  // namespace sparsegrad::finetune
