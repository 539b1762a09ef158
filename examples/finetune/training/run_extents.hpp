// How many steps a run has, in which order it sees the examples, and how large its batches are.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "data/encoded_dataset.hpp"
#include "training/options.hpp"
#include "training/sampler.hpp"

namespace sparsegrad::finetune {

/// Throws ValueError when they are more than 1e12.
index_t planned_steps(const TrainOptions& options, index_t examples);

/// The order of the examples, at its start: equal for all run types of a seed.
Sampler sampler_of(const TrainOptions& options, index_t examples);

/// Rows of a run's micro-batches.
struct BatchExtents {
  index_t max_tokens = 0;    ///< of the largest micro-batch
  index_t max_rows = 0;      ///< of one sequence
  index_t max_examples = 1;  ///< of a micro-batch
  index_t mean_tokens = 1;   ///< of a micro-batch
  index_t mean_batches = 1;  ///< of a step
};

/// Into how many examples each, in their order, those of a step are cut: its micro-batches, of which number k is process
/// k mod options.processes's. Each has batch_size examples, or under tokens_per_batch as many as have no more rows than
/// that together. Where those would be fewer than the processes they are smaller: of batch_size accumulation / processes
/// examples, as in one process with that batch size and as many micro-batches; or of the fewest rows with which they are no
/// more than the processes. Throws ValueError for an example that alone has more rows than tokens_per_batch.
std::vector<std::size_t> micro_batches(const TrainOptions& options, std::span<const index_t> examples,
                                       const std::function<index_t(index_t i)>& rows_of);

/// Of the first steps, 20000 at most: what a few epochs show is what all of them are like; a longer batch later on makes
/// the model take more room.
BatchExtents measure_batches(const TrainOptions& options, index_t examples,
                             const std::function<index_t(index_t i)>& rows_of);
BatchExtents measure_batches(const TrainOptions& options, const EncodedDataset& train);

}  // namespace sparsegrad::finetune
