#include "programs/llm_help.hpp"

#include <set>
#include <string>
#include <utility>

namespace sparsegrad::finetune {

void describe_for_language_models(CLI::App& app) {
  constexpr std::pair<const char*, const char*> texts[] = {
      {"--train-limit", "of --data without what is held out, use only the first N examples (0: all)"},
      {"--accumulation",
       "micro-batches of an optimizer step, whose loss is the mean over the tokens of all their answers"},
      {"--options",
       "JSON file of options of this command, {\"learning-rate\": 1e-4}: tools/glue_optimize.py --program "
       "sparsegrad-llm writes one; the command line has precedence"},
      {"--learning-rate", "of AdamW, and of the sparse steps"},
      {"--sparse-learning-rate", "of the chosen matrices (default: --learning-rate)"},
      {"--weight-decay", "decoupled, of matrices alone"},
      {"--seed", "of the order of examples, and of what the adapters of run type lora begin with"},
      {"--n-params",
       "entries that a step changes, counted for a matrix of 768 x 3072 and scaled to the size of the chosen "
       "ones; --share says it for any size"},
      {"--share", "share of a matrix's entries that a step changes, in (0, 1], in place of --n-params"},
      {"--phase1-steps",
       "steps of phase 1, which gathers the gradients that the bases are fitted to; left out when no side "
       "needs "
       "gradients"},
      {"--phase1-fixed-matrices",
       "in phase 1 the matrices only give their gradients, each micro-batch's for itself (default; "
       "--phase1-fixed-matrices=false trains them meanwhile by AdamW and puts them back)"},
      {"--lora-scale",
       "factor of the adapters, peft's lora_alpha / r (0: 1 / rank, as SparseGrad's authors have it)"},
      {"--eval-every",
       "evaluate on what is held out every N steps (0: only at the end of each epoch, which is done anyway)"},
      {"--patience",
       "stop after N evaluations without a lower loss (0: never); judged on what is held out, as is the best "
       "model"},
      {"--held-out", "share of the examples of --data that are evaluated on, and not trained on"},
      {"--basis-scope", "which matrices share a basis: kind, all of a kind (all up, all down); layer, none"},
      {"--width-side",
       "the side of the model's width: identity (not rotated), full (HOSVD), a rank such as 64, an energy "
       "share "
       "such as 0.95, hadamard[:seed], random[:rank[:seed]]"},
      {"--other-side", "the other side of each matrix, in the same words"},
      {"--keep-phase1", "keep the weights of phase 1; else they are as before it"},
  };
  for (const auto& [name, text] : texts)
    app.get_option(name)->description(text);
  app.get_option("--keep-phase1")
      ->group("Sparse gradients");  // no other defect of the paper's code is offered
}

void show_options_of_inspect(CLI::App& app) {
  static const std::set<std::string> shown{"--help",
                                           "--model",
                                           "--chat-template",
                                           "--chat-date",
                                           "--adapter",
                                           "--max-length",
                                           "--options",
                                           "--dtype",
                                           "--threads",
                                           "--base",
                                           "--run-type",
                                           "--matrices",
                                           "--blocks",
                                           "--train-parameters",
                                           "--recompute",
                                           "--tokens-per-batch",
                                           "--batch-size",
                                           "--accumulation",
                                           "--clip-norm",
                                           "--max-steps",
                                           "--lora-rank",
                                           "--n-params",
                                           "--share",
                                           "--preset",
                                           "--phase1-fixed-matrices",
                                           "--keep-phase1",
                                           "--basis-scope",
                                           "--width-side",
                                           "--other-side",
                                           "--out-side",
                                           "--in-side",
                                           "--refresh-every",
                                           "--adam",
                                           "--plan",
                                           "--state-capacity",
                                           "--state-overflow",
                                           "--own-gradient-memory"};
  for (CLI::Option* option : app.get_options()) {
    if (!option->get_lnames().empty() && shown.contains("--" + option->get_lnames().front())) continue;
    option->required(false);
    option->group("");
  }
}

}  // namespace sparsegrad::finetune
