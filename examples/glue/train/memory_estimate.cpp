#include "train/memory_estimate.hpp"

#include <fmt/format.h>

namespace sparsegrad::glue {

MemoryParts estimate_memory(const ModelConfig& c, const TrainOptions& options, index_t longest) {
  constexpr auto number = static_cast<index_t>(sizeof(float));
  const index_t stored = options.dtype == NumberType::float32 ? number : 2;  // of activations, and of copies
  const index_t matrix = c.hidden * c.intermediate;
  const index_t matrices = 2 * c.layers * matrix;
  const index_t mlp_biases = c.layers * (c.intermediate + c.hidden);
  const index_t head = c.hidden * c.hidden + c.hidden + c.num_labels * (c.hidden + 1);
  const index_t embeddings = (c.vocab_size + c.max_positions + c.type_vocab_size + 2) * c.hidden;
  const index_t attention = c.layers * (4 * c.hidden * c.hidden + 4 * c.hidden + 4 * c.hidden);
  const index_t adapters =
      options.run_type == RunType::lora ? 2 * c.layers * options.lora.rank * (c.hidden + c.intermediate) : 0;

  index_t dense = mlp_biases + head + adapters;
  if (options.trained == TrainedParameters::all) dense += embeddings + attention;
  const bool dense_mlp = options.run_type == RunType::ft || options.run_type == RunType::meprop;

  MemoryParts parts;
  parts.weights = number * (matrices + mlp_biases + head + embeddings + attention + adapters);
  if (stored < number)
    parts.weights += stored * (matrices + head + adapters + c.layers * 4 * c.hidden * c.hidden);
  parts.gradients = number * dense;
  parts.optimizer = 2 * number * dense;
  if (dense_mlp) {
    parts.gradients += number * matrices;
    parts.optimizer += 2 * number * matrices;
  } else if (options.steps_sparsely()) {
    parts.gradients += number * (options.shares_gradient_memory() ? matrix : matrices);
  }
  const index_t tokens =
      options.batch_size * (options.padding == Padding::max_length ? options.max_length : longest);
  const index_t a_layer = 8 * c.hidden + 2 * c.intermediate + c.heads + 2;
  const index_t in_flight = 9 * c.hidden + c.intermediate;
  parts.activations = stored * tokens * (c.layers * a_layer + in_flight);
  return parts;
}

void require_memory(const MemoryParts& estimate, index_t available) {
  const index_t least = estimate.weights + estimate.gradients + estimate.optimizer;
  if (available <= 0 || least <= available) return;
  const auto mib = [](index_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  throw ModelError(
      fmt::format("this run needs at least {:.0f} MiB of memory (weights {:.0f}, gradients {:.0f}, optimizer "
                  "{:.0f}) and up to {:.0f} "
                  "with activations, {:.0f} MiB are available; a smaller model, --run-type sparse or lora, "
                  "or --train-parameters mlp "
                  "need less",
                  mib(least), mib(estimate.weights), mib(estimate.gradients), mib(estimate.optimizer),
                  mib(estimate.sum()), mib(available)));
}

}  // namespace sparsegrad::glue
