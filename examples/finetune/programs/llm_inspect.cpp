#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "programs/chat_date.hpp"
#include "programs/llm_commands.hpp"
#include "training/adapter_start.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_source.hpp"
#include "training/memory/memory_estimate.hpp"
#include "training/memory/process_memory.hpp"
#include "training/output/console.hpp"
#include "training/output/train_output.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

int run_llm_inspect(const TrainOptions& asked) {
  asked.check();
  const TrainOptions options = asked.causal.value().start.empty() ? asked : options_of_start(asked);
  const CausalSource source(options.model);
  const DecoderConfig& config = source.config();
  print("model: {} ({})\n", options.model.string(), source.form());
  print(
      "       {}, {} blocks of width {}, MLP {}, {} heads of {} with {} for keys and values, {} positions\n",
      to_string(config.family), config.layers, config.hidden, config.intermediate, config.heads,
      config.head_size, config.kv_heads, config.max_positions);
  print("       RoPE base {}, scaling {}; RMSNorm eps {}; output {}\n", config.rope.base,
        to_string(config.rope.scaling), config.rms_norm_eps,
        config.tied_embeddings ? "tied to the embeddings" : "of its own");
  const CheckedWeights weights = check_weights(source);
  print("weights: {} tensors, all there, of their shapes and finite\n", weights.tensors);
  if (const std::string unused = weights.report.text(); !unused.empty()) print("       {}\n", unused);
  const CausalTokenizer& tokenizer = source.tokenizer();
  print("tokenizer: {} tokens for {} rows of embeddings\n", tokenizer.vocab_size(), config.vocab_size);
  for (const std::string& note : source.notes())
    print("       note: {}\n", note);
  try {
    const ChatTemplate chat =
        source.chat_template(options.causal.value().chat_template, options.causal->chat_date);
    print("chat template: {}\n", chat.name());
    Conversation question{{Role::user, "QUESTION"}};
    print("{}\n", chat.prompt(question));
    tell_unused_chat_date(source, *options.causal);
  } catch (const ValueError& error) {
    print("chat template: {}\n", error.what());
  }
  const TrainedParts parts = trained_parts(options, config);
  const std::string blocks = fmt::format("{}", fmt::join(parts.matrices.blocks, ", "));
  print("trained: {} of blocks {}\n", options.causal->matrices, blocks);
  index_t trained = 0;
  for (const MatrixKind kind : parts.matrices.kinds) {
    const MatrixExtents extents = matrix_extents(config, kind);
    print("       {} {} x {}\n", to_string(kind), extents.out, extents.in);
    trained += extents.out * extents.in * static_cast<index_t>(parts.matrices.blocks.size());
  }
  print("       {} weights in them\n", trained);
  const index_t tokens =
      options.tokens_per_batch > 0 ? options.tokens_per_batch : options.batch_size * options.max_length;
  const MemoryEstimate estimate =
      estimate_memory(config, options, tokens, source.packed(options.causal->base), options.max_steps);
  for (const auto& [name, memory] :
       {std::pair("phase 1", &estimate.phase1), std::pair("training", &estimate.training)}) {
    const MemoryParts& p = *memory;
    if (p.sum() == 0) continue;
    print(
        "memory of {}, run type {}, batches of {} tokens at most: {:.0f} MiB = weights {:.0f} + gradients "
        "{:.0f} + "
        "optimizer {:.0f} + activations {:.0f} + basis {:.1f} + collection {:.0f}\n",
        name, to_string(options.run_type), tokens, mib(p.sum()), mib(p.weights), mib(p.gradients),
        mib(p.optimizer), mib(p.activations), mib(p.basis), mib(p.collection));
  }
  print("       beside the program's {:.0f} MiB; {:.0f} MiB are free\n", mib(process_memory().resident),
        mib(available_memory()));
  return 0;
}

}  // namespace sparsegrad::finetune
