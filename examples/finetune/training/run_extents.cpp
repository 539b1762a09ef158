#include "training/run_extents.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include <fmt/format.h>

namespace sparsegrad::finetune {

namespace {

constexpr std::uint64_t order_stream = 1;

/// How many follow each other whose rows are no more than `limit` together; each one has no more.
std::vector<std::size_t> cut_by_rows(std::span<const index_t> rows, index_t limit) {
  std::vector<std::size_t> counts;
  index_t sum = limit;
  for (const index_t own : rows) {
    if (counts.empty() || sum + own > limit) {
      counts.push_back(0);
      sum = 0;
    }
    ++counts.back();
    sum += own;
  }
  return counts;
}

}  // namespace

index_t planned_steps(const TrainOptions& options, index_t examples) {
  const index_t examples_a_step = options.batch_size * options.accumulation;
  const index_t steps_an_epoch = (examples + examples_a_step - 1) / examples_a_step;
  const double planned = std::ceil(options.epochs * static_cast<double>(steps_an_epoch));
  if (planned > 1e12)
    throw ValueError(fmt::format("--epochs is {}, which are more than 1e12 steps", options.epochs));
  const index_t steps = std::max<index_t>(1, static_cast<index_t>(planned));
  return options.max_steps > 0 ? std::min(steps, options.max_steps) : steps;
}

Sampler sampler_of(const TrainOptions& options, index_t examples) {
  return Sampler(examples, stream_key(options.seed, order_stream), options.shuffle);
}

std::vector<std::size_t> micro_batches(const TrainOptions& options, std::span<const index_t> examples,
                                       const std::function<index_t(index_t i)>& rows_of) {
  const auto processes = static_cast<index_t>(options.processes);
  if (options.tokens_per_batch == 0) {
    const index_t step = options.batch_size * options.accumulation;
    const auto size = static_cast<std::size_t>(
        options.accumulation >= processes ? options.batch_size : (step + processes - 1) / processes);
    std::vector<std::size_t> counts(examples.size() / size, size);
    if (examples.size() % size > 0) counts.push_back(examples.size() % size);
    return counts;
  }
  std::vector<index_t> rows;
  for (const index_t i : examples)
    rows.push_back(rows_of(i));
  const index_t longest = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end());
  if (longest > options.tokens_per_batch) {
    throw ValueError(
        fmt::format("--tokens-per-batch is {}, expected at least the {} tokens of the longest example; or "
                    "give a smaller --max-length, which cuts it",
                    options.tokens_per_batch, longest));
  }
  std::vector<std::size_t> counts = cut_by_rows(rows, options.tokens_per_batch);
  if (counts.size() >= static_cast<std::size_t>(processes)) return counts;
  // The least limit that makes no more micro-batches than processes: fewer rows a batch never make fewer batches.
  index_t low = longest;
  index_t high = options.tokens_per_batch;
  while (low < high) {
    const index_t middle = low + (high - low) / 2;
    if (cut_by_rows(rows, middle).size() <= static_cast<std::size_t>(processes))
      high = middle;
    else
      low = middle + 1;
  }
  return cut_by_rows(rows, high);
}

BatchExtents measure_batches(const TrainOptions& options, index_t examples,
                             const std::function<index_t(index_t i)>& rows_of) {
  BatchExtents extents;
  Sampler walk = sampler_of(options, examples);
  double tokens = 0;
  index_t batches = 0;
  const index_t steps = std::min<index_t>(planned_steps(options, examples), 20000);
  for (index_t s = 0; s < steps; ++s) {
    std::span<const index_t> all = walk.take(options.batch_size * options.accumulation);
    for (const std::size_t count : micro_batches(options, all, rows_of)) {
      index_t rows = 0;
      for (const index_t i : all.first(count)) {
        const index_t own = rows_of(i);
        rows += own;
        extents.max_rows = std::max(extents.max_rows, own);
      }
      all = all.subspan(count);
      extents.max_tokens = std::max(extents.max_tokens, rows);
      extents.max_examples = std::max(extents.max_examples, static_cast<index_t>(count));
      tokens += static_cast<double>(rows);
      ++batches;
    }
  }
  const double mean = tokens / static_cast<double>(std::max<index_t>(batches, 1));
  extents.mean_tokens = std::max<index_t>(1, static_cast<index_t>(mean));
  extents.mean_batches = std::max<index_t>(1, (batches + steps - 1) / std::max<index_t>(steps, 1));
  return extents;
}

BatchExtents measure_batches(const TrainOptions& options, const EncodedDataset& train) {
  return measure_batches(options, train.size(), [&](index_t i) { return train.rows(i, options.padding); });
}

}  // namespace sparsegrad::finetune
